"""Cost of logging the mixing, its metrics and its images, against a plain training step."""

from __future__ import annotations

from functools import partial

import torch
from jsonargparse.typing import PositiveInt
from torch import nn

from experiments.benchmarks.mixing import CORES
from experiments.benchmarks.setup import (
    Metrics,
    in_milliseconds,
    photograph_crops,
    print_table,
    time_interleaved,
    trained_net,
)
from experiments.benchmarks.steps import training_steps
from experiments.models import PreActResNet
from lightning_puzzlemix import MixDraw, PuzzleMix, PuzzleMixConfig
from lightning_puzzlemix.callbacks import LOG_IMAGES_EVERY_N_STEPS
from lightning_puzzlemix.monitoring import mix_metrics, render_mixes

# Steps between two loggings: Lightning's default, log_every_n_steps=50, and that of the callback.
PERIODS = {"metrics": 50, "image": LOG_IMAGES_EVERY_N_STEPS}


def measure_logging_cost(rounds: PositiveInt = 5, threads: PositiveInt = CORES) -> Metrics:
    """Metrics and image of a mixed batch against a plain training step, 100 images at 32 px, n = 16.

    Args:
        rounds: Measured rounds of each comparison.
        threads: Threads of the solver.
    """
    torch.manual_seed(0)
    images, classes = photograph_crops(100, 32)
    config = PuzzleMixConfig(threads=threads)
    mixer, draw = PuzzleMix(config, saliency="spectral", num_classes=8), MixDraw(torch.randperm(100), 0.5, 16)
    mixed = mixer(nn.Identity(), images, classes, draw)
    candidates = {
        "step": training_steps(PreActResNet(num_classes=100), images, torch.arange(100), config)["plain"],
        "narrow_step": training_steps(trained_net(), images, classes, config)["plain"],
        "metrics": partial(mix_metrics, mixed),
        "image": partial(render_mixes, mixed, classes),
    }
    seconds = time_interleaved(rounds, candidates)
    shares = {
        step: {name: seconds[name] / seconds[step] / period for name, period in PERIODS.items()}
        for step in ("step", "narrow_step")
    }
    rows = {
        f"{name}, every {period}th step": {
            "once": f"{1000 * seconds[name]:.1f} ms",
            "of a PreActResNet-18 step": f"{shares['step'][name]:.4%}",
            "with a quarter of the width": f"{shares['narrow_step'][name]:.4%}",
        }
        for name, period in PERIODS.items()
    }
    print_table("Logging the mixing of 100 images, 3x32x32, n = 16 (median)", rows)
    return {"rounds": rounds, "logging_cost": in_milliseconds(seconds) | {"share_of_training": shares}}
