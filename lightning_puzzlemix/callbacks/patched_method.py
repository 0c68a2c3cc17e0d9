"""Replace a method of one object for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class PatchedMethod:
    """Stands in for a method on one instance until :meth:`remove`.

    Copies and pickles of the instance made meanwhile get their own method back: they know nothing of this.

    Args:
        instance: Whose method.
        name: Name of the method.
        call: Runs in its place as ``call(original, *args, **kwargs)``.
    """

    def __init__(self, instance: Any, name: str, call: Callable[..., Any]) -> None:
        self._instance, self._name, self._call = instance, name, call
        self._removed = False
        self._previous = instance.__dict__.get(name)
        # Lightning looks at the signature to see which arguments the method wants.
        self.__wrapped__ = getattr(instance, name)
        instance.__dict__[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run what stands in for the method, or once removed the method itself."""
        if self._removed:
            return self.__wrapped__(*args, **kwargs)
        return self._call(self.__wrapped__, *args, **kwargs)

    def remove(self) -> None:
        """Put back what was there before (torch.compile puts methods on the instance, too)."""
        self._removed = True
        # Where somebody has replaced this one in the meantime, it only passes calls on.
        if self._instance.__dict__.get(self._name) is self:
            self._take_off()

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Give the instance its own method back for the length of the block; for good if the block raises."""
        self._take_off()
        yield
        if not self._removed:
            self._instance.__dict__[self._name] = self

    def _take_off(self) -> None:
        if self._previous is None:
            self._instance.__dict__.pop(self._name, None)
        else:
            self._instance.__dict__[self._name] = self._previous

    def __reduce__(self) -> tuple[Any, ...]:
        if self._previous is None:
            return getattr, (self._instance, self._name)
        return _identity, (self._previous,)


def _identity(value: Any) -> Any:
    return value
