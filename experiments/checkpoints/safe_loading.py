"""Reading files of torch.save from elsewhere: nothing that is pickled in them is imported, called or run."""

import re
from pathlib import Path
from typing import Any

import torch

from experiments.common import UserError

# What the authors' files hold besides tensors: their record of the training, made of NumPy arrays (NumPy 1 and 2).
ALLOWED_GLOBALS = (
    "logger.RecorderMeter", "utils.RecorderMeter", "numpy.ndarray", "numpy.dtype", "_codecs.encode",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
)  # fmt: skip


class OpaqueObject:
    """Stands for an object that is not built; it keeps nothing of its content."""

    def __new__(cls, *args: Any) -> "OpaqueObject":
        """Ignore the arguments of the constructor."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...


def safe_load(path: str | Path) -> Any:
    """Read a file of torch.save on the CPU: tensors and plain values as they are, `ALLOWED_GLOBALS` as `OpaqueObject`.

    Raises:
        UserError: If the file is missing, unreadable, or holds anything else; nothing of that has been run then.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path.absolute()}")
    # Torch would also build what libraries have told it to; it keeps one list per process.
    hidden = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals([(OpaqueObject, name) for name in ALLOWED_GLOBALS]):
            return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged or hostile file can raise anything in the reader.
    except Exception as error:
        found = re.search(r"GLOBAL [`']?([\w.]+)", str(error))
        asked = f"it asks for {found[1]}, which weights do not need" if found else type(error).__name__
        # Not torch's own message, which advises to read the file without care.
        raise UserError(
            f"{path} cannot be read as a checkpoint, and nothing in it was run: {asked}. Readable are checkpoints of this "
            "study and of the Puzzle Mix authors' code; from others take the state_dict alone: "
            "torch.save({'state_dict': weights}, PATH), written where the file is trusted"
        ) from error
    finally:
        torch.serialization.add_safe_globals(hidden)
