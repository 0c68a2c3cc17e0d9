"""Runs from the command line that are killed, in processes forked from this one, so that nothing is imported twice.

As a program: `python killing.py FOLDER OVERRIDE ...` runs once without being killed, then reads orders, a line of JSON each,
from standard input, and answers with a line each. An order names the folder and what happens to its run:
`{"run": "a", "after": 0.4}` kills it after this share of the time of the whole run, which as the first is the slowest,
`{"run": "a", "at": 3}` when it has a file put onto the disk for the third time, `{"run": "a", "full": 3}` has the disk be full
then and ever after; without any of them it is left alone. `"with"` lists further overrides. The answer is what the run left,
see `Left`.
"""

import csv
import errno
import hashlib
import json
import os
import signal
import sys
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Left:
    """What a run left.

    Args:
        code: Its exit code; negative: the signal that ended it.
        said: All that it printed.
        weights: Digest of the weights of the last checkpoint; empty: the run has not ended well.
        summary: The numbers of its summary that do not depend on the machine's speed; None: there is none.
        trained: Epochs whose loss is in metrics.csv, in its order.
        syncs: How often it has had a file, or the names in a folder, put onto the disk.
    """

    code: int
    said: str
    weights: str
    summary: dict[str, Any] | None
    trained: list[int]
    syncs: int


def launch(folder: Path, overrides: list[str], kill_at: int | None = None, full_at: int | None = None) -> int:
    """Start the command in a process of its own; return its number."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        output = os.open(folder.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _count_syncs(folder, kill_at, full_at)
        from experiments.train import command

        sys.argv = ["train", *overrides, f"hydra.run.dir={folder}"]
        command()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _count_syncs(folder: Path, kill_at: int | None, full_at: int | None) -> None:
    fsync, note = os.fsync, folder.with_suffix(".syncs")
    note.unlink(missing_ok=True)
    calls = 0

    def counted(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        with note.open("a") as file:
            file.write(".")
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if full_at is not None and calls >= full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    os.fsync = counted


def finish(folder: Path, process: int) -> Left:
    """Wait for the end of a run and look at what it left."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    last, summary, metrics = (folder / name for name in ("checkpoints/last.ckpt", "summary.json", "logs/metrics.csv"))
    kept = None
    if summary.is_file():
        content = json.loads(summary.read_text())
        kept = {
            key: content[key] for key in ("test", "val_accuracy", "test_accuracy_by_epoch", "epochs", "train_images")
        }
    weights, trained = "", []
    # A finished run is left alone, whatever has become of its weights.
    if code == 0 and last.is_file() and zipfile.is_zipfile(last):
        state = torch.load(last, weights_only=True)["state_dict"]
        digest = hashlib.sha256()
        for value in state.values():
            digest.update(value.numpy().tobytes())
        weights = digest.hexdigest()
    if code == 0 and metrics.is_file():
        with metrics.open(newline="", errors="replace") as file:
            trained = [
                int(line["epoch"])
                for line in csv.DictReader(file)
                if line.get("train_loss") and (line["epoch"] or "").isdigit()
            ]
    return Left(
        code=code,
        said=folder.with_suffix(".out").read_text(),
        weights=weights,
        summary=kept,
        trained=trained,
        syncs=len(note.read_text()) if (note := folder.with_suffix(".syncs")).is_file() else 0,
    )


def answer(left: Left) -> None:
    """Say what a run left."""
    sys.stdout.write(json.dumps(asdict(left)) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run once, then obey."""
    import experiments.train  # noqa: F401  (the others start from here)

    top, overrides = Path(sys.argv[1]), sys.argv[2:]
    start = time.perf_counter()
    whole = finish(top / "whole", launch(top / "whole", overrides))
    seconds = time.perf_counter() - start
    answer(whole)
    for line in sys.stdin:
        order = json.loads(line)
        folder = top / order["run"]
        process = launch(folder, [*overrides, *order.get("with", ())], order.get("at"), order.get("full"))
        if order.get("after") is not None:
            time.sleep(seconds * order["after"])
            os.kill(process, signal.SIGKILL)
        answer(finish(folder, process))


if __name__ == "__main__":
    main()
