"""Train with every method at once on one GPU: ``python -m experiments.gpu_study OUT ZIP...``; see ``gpu_study.sh``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch.multiprocessing as mp

from experiments.gpu_study.data import read_images
from experiments.gpu_study.training import METHODS, TIMED_STEPS, run


def main() -> None:
    """Read the data once, start a process for each method, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu_study", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the results, as they come")
    parser.add_argument("data", type=Path, nargs="+", help="zip archives of train/<class>/ and test/<class>/ images")
    parser.add_argument("--until", type=float, required=True, help="when everything has ended, in seconds since 1970")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--emulate", action="store_true", help="a dry run: a narrow network and few images, measuring nothing"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    arrays = read_images(options.data)
    if options.emulate:
        arrays = {name: array[:: max(1, len(array) // 200)][:200] for name, array in arrays.items()}
    path = options.out / "images.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]  # of NumPy's own stub
    reserve = min(60.0, (options.until - time.time()) / 5)
    settings = {
        "seed": options.seed, "rate": 0.2, "deadline": options.until, "reserve": reserve,
        "batch_size": 20 if options.emulate else 128, "width": 4 if options.emulate else 64,
        "timed_steps": 2 if options.emulate else TIMED_STEPS,
    }  # fmt: skip
    try:
        _start(options.methods, path, options.out, settings)
    finally:
        path.unlink(missing_ok=True)
    sys.exit(_print(options.methods, options.out))


def _start(methods: list[str], path: Path, out: Path, settings: dict[str, float]) -> None:
    context = mp.get_context("spawn")
    with context.Manager() as manager:
        meeting, times = manager.Barrier(len(methods)), manager.dict()
        processes = [
            context.Process(target=run, args=(method, path, out, settings, meeting, times), daemon=True)
            for method in methods
        ]
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            if any(process.exitcode for process in processes):
                # One that has failed would let the others wait for it forever.
                meeting.abort()
            if time.time() > settings["deadline"]:
                break
            time.sleep(0.2)
        for process in processes:
            process.kill()


def _print(methods: list[str], out: Path) -> int:
    """Print what was found; return 1 where a method has no result."""
    found = {method: out / f"{method}.json" for method in methods}
    for method, path in found.items():
        if not path.is_file():
            sys.stdout.write(f"{method}: no result\n")
            continue
        result = json.loads(path.read_text())
        shares = ", ".join(f"{name} {result[name]:.2%}" for name in ("top1", "calibration_error", "fgsm_4_255"))
        sys.stdout.write(f"{method}: {shares}; {result['epochs']} epochs in {result['seconds']} s\n")
    return int(not all(path.is_file() for path in found.values()))


if __name__ == "__main__":
    main()
