"""Train with every method at once on one GPU: `python -m experiments.gpu_study OUT ZIP... --until SECONDS`."""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch.multiprocessing as mp

from experiments.gpu_study.data import read_images
from experiments.gpu_study.training import METHODS, run


def main() -> None:
    """Read the data once, start a process for each method, and print the results; exit with 1 where one is missing."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu_study", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the results, as they come")
    parser.add_argument("data", type=Path, nargs="+", help="zip archives of train/<class>/ and test/<class>/ images")
    parser.add_argument("--until", type=float, required=True, help="when everything has ended, in seconds since 1970")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--emulate", action="store_true", help="a dry run of a narrow network, which measures nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    arrays, images = read_images(options.data), options.out / "images.npz"
    if options.emulate:
        arrays = {name: array[:: max(1, len(array) // 200)][:200] for name, array in arrays.items()}
    np.savez(images, **arrays)
    batch_size, width, timed_steps = (20, 4, 2) if options.emulate else (128, 64, 40)
    settings = {
        "seed": options.seed, "rate": 0.2, "batch_size": batch_size, "width": width, "timed_steps": timed_steps,
        "deadline": options.until, "reserve": min(60.0, (options.until - time.time()) / 5),
    }  # fmt: skip
    _run_all(options.methods, images, options.out, settings)
    images.unlink()
    found = {method: options.out / f"{method}.json" for method in options.methods}
    for method, path in found.items():
        result = json.loads(path.read_bytes()) if path.is_file() else {}
        shares = (f"{name} {result[name]:.2%}" for name in ("top1", "calibration_error", "fgsm_4_255") if result)
        rest = f"{result['epochs']} epochs in {result['seconds']} s" if result else "no result"
        sys.stdout.write(f"{method}: {', '.join([*shares, rest])}\n")
    sys.exit(not all(path.is_file() for path in found.values()))


def _run_all(methods: list[str], images: Path, out: Path, settings: dict[str, float]) -> None:
    context = mp.get_context("spawn")
    with context.Manager() as manager:
        meeting, times = manager.Barrier(len(methods)), manager.dict()
        jobs = [context.Process(target=run, args=(each, images, out, settings, meeting, times)) for each in methods]
        for job in jobs:
            job.start()
        while any(job.is_alive() for job in jobs) and time.time() < settings["deadline"]:
            if any(job.exitcode for job in jobs):
                # The others would wait forever for one that has failed.
                meeting.abort()
            time.sleep(0.2)
        for job in jobs:
            job.kill()


if __name__ == "__main__":
    main()
