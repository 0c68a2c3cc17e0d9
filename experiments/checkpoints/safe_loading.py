"""Reading files of torch.save from elsewhere: nothing that is pickled in them is imported, called or run."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch

from experiments.common.errors import UserError

# What the authors' files hold besides tensors: their record of the training, made of NumPy arrays (NumPy 1 and 2). `encode`
# is how pickle writes bytes; later versions of torch know it.
ALLOWED_GLOBALS = (
    "logger.RecorderMeter",
    "utils.RecorderMeter",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
)
# What looking into a placeholder raises if it was not made of what it should be made of.
MALFORMED = (TypeError, ValueError, LookupError, RuntimeError)
READING = threading.Lock()
NUMBER_CODE = re.compile(r"[fiu][248]|[iu]1")


class OpaqueObject:
    """Stands for an object of a class or the result of a call that is not made: it keeps what it was to be made of."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> "OpaqueObject":
        """Keep `args`, whatever they are."""
        made = super().__new__(cls)
        made.args = args
        made.state = None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _placeholder(path: str) -> type[OpaqueObject]:
    """A class that torch takes for the global `path`: it looks at module and name alone."""
    module, _, name = path.rpartition(".")
    return type(name, (OpaqueObject,), {"__module__": module})


PLACEHOLDERS = {path: _placeholder(path) for path in ALLOWED_GLOBALS}


def load_inert(path: str | Path) -> Any:
    """Read a file of torch.save on the CPU: tensors and plain values as they are, `ALLOWED_GLOBALS` as `OpaqueObject`.

    Args:
        path: The file, in torch's zip format or the one before it.

    Raises:
        UserError: If there is no such file, if it cannot be read, or if it holds anything else; nothing of that has
            been run then.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path.absolute()}")
    try:
        with _allowing_only(list(PLACEHOLDERS.values())):
            return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged or hostile file can make the reader stumble anywhere.
    except Exception as error:
        raise UserError(_explain(path, error)) from error


def is_a(value: Any, *paths: str) -> TypeGuard[OpaqueObject]:
    """Whether `value` stands for one of these globals."""
    return any(type(value) is PLACEHOLDERS[path] for path in paths)


def decode_array(value: Any) -> np.ndarray | None:
    """The array of numbers that `value` stands for; None: it does not, or not properly."""
    if not is_a(value, "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"):
        return None
    try:
        _, shape, dtype, fortran_order, data = value.state
        flat = np.frombuffer(_decode_bytes(data), _decode_dtype(dtype))
        return flat.reshape(shape, order="F" if fortran_order else "C")
    except MALFORMED:
        return None


def decode_number(value: Any) -> float | None:
    """The number that `value` is: a plain one, a tensor of one element or a NumPy scalar; None: it is not."""
    try:
        if is_a(value, "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"):
            dtype, data = value.args
            return float(np.frombuffer(_decode_bytes(data), _decode_dtype(dtype)).item())
        return float(value) if isinstance(value, int | float | torch.Tensor) else None
    except MALFORMED:
        return None


def _decode_dtype(value: Any) -> np.dtype:
    if not is_a(value, "numpy.dtype"):
        raise TypeError("not a dtype")
    code, order = value.args[0], value.state[1]
    # Objects, texts and records are not numbers.
    if not NUMBER_CODE.fullmatch(code) or order not in ("<", ">", "|", "="):
        raise TypeError("not a dtype of numbers")
    return np.dtype(order + code)


def _decode_bytes(value: Any) -> bytes:
    if is_a(value, "_codecs.encode"):
        text, encoding = value.args
        if encoding != "latin1":
            raise TypeError("not how pickle writes bytes")
        return str(text).encode("latin1")
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value


@contextmanager
def _allowing_only(classes: list[Any]) -> Iterator[None]:
    """Have torch take these classes, and none of those that some library has told it to take.

    Torch keeps one list for the whole process, so threads take turns; at the end it is as it was, with what others have added.
    """
    with READING:
        hidden = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(classes)
        try:
            yield
        finally:
            added = [each for each in torch.serialization.get_safe_globals() if each not in classes]
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals([*hidden, *added])


def _explain(path: Path, error: Exception) -> str:
    reason = str(error)
    found = re.search(r"GLOBAL [`']?([\w.]+)", reason)
    if found:
        return (
            f"{path} was refused, and nothing in it was run: it asks for {found[1]}, which weights do not need. Read are "
            "checkpoints of this study and of the Puzzle Mix authors' code; from others take the state_dict alone: "
            "torch.save({'state_dict': weights}, PATH), written where the file is trusted"
        )
    # torch puts its advice to read the file without care before the reason.
    first_line = reason.rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
    return f"{path} cannot be read as a checkpoint, and nothing in it was run ({type(error).__name__}: {first_line})"
