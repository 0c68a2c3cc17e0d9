"""Replace a method of one object for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class MethodPatch:
    """Replaces a method on one instance until :meth:`remove`; copies and pickles of the instance get the original method.

    Args:
        instance: The object.
        name: Name of its method.
        call: Runs in place of the method as ``call(original, *args, **kwargs)``.
    """

    def __init__(self, instance: Any, name: str, call: Callable[..., Any]) -> None:
        self._instance, self._name, self._call = instance, name, call
        self._removed = False
        # A method may lie on the instance already: torch.compile puts it there.
        self._previous = instance.__dict__.get(name)
        # Lightning inspects the signature to find out which arguments the method takes.
        self.__wrapped__ = getattr(instance, name)
        instance.__dict__[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the replacement, or the original method once this is removed."""
        if self._removed:
            return self.__wrapped__(*args, **kwargs)
        return self._call(self.__wrapped__, *args, **kwargs)

    def remove(self) -> None:
        """Restore the original method."""
        self._removed = True
        # If another patch was put on top meanwhile, this one stays below it and passes calls on.
        if self._instance.__dict__.get(self._name) is self:
            self._restore()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Restore the original method inside the ``with`` block; for good if the block raises."""
        self._restore()
        yield
        if not self._removed:
            self._instance.__dict__[self._name] = self

    def _restore(self) -> None:
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
