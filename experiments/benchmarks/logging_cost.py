"""What it costs to look at the mixing: the figures of a batch and its picture, against a plain training step."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import nn

from experiments.benchmarks.saliency import training_steps
from experiments.benchmarks.setup import Figures, in_milliseconds, photograph_crops, time_interleaved, trained_net
from experiments.models.preactresnet import PreActResNet
from lightning_puzzlemix import MixDraw, PuzzleMix, PuzzleMixConfig
from lightning_puzzlemix.callbacks import LOG_IMAGES_EVERY_N_STEPS
from lightning_puzzlemix.monitoring import mix_metrics, render_mixes

# Trainer(log_every_n_steps=50).
LOGGED_EVERY = 50


def measure_looking(rounds: int, threads: int) -> Figures:
    """Figures and picture of 100 images at 32 px, n = 16, beside mixing them and a plain step of PreActResNet-18.

    Lightning's default is to log every 50th step; the callback's is a picture every 1000th.
    """
    torch.manual_seed(0)
    images, classes = photograph_crops(100, 32)
    config = PuzzleMixConfig(threads=threads)
    mixer, draw = PuzzleMix(config, saliency="spectral", num_classes=8), MixDraw(torch.randperm(100), 0.5, 16)
    mixed = mixer(nn.Identity(), images, classes, draw)
    labels = torch.arange(100)
    sides: dict[str, Any] = {
        "step": training_steps(PreActResNet(num_classes=100), images, labels, config)["plain"],
        "narrow_step": training_steps(trained_net(), images, classes, config)["plain"],
        "figures": partial(mix_metrics, mixed),
        "picture": partial(render_mixes, mixed, classes),
    }
    seconds = time_interleaved(rounds, sides)
    shares = {
        name: {
            "figures": seconds["figures"] / seconds[name] / LOGGED_EVERY,
            "picture": seconds["picture"] / seconds[name] / LOG_IMAGES_EVERY_N_STEPS,
        }
        for name in ("step", "narrow_step")
    }
    return in_milliseconds(seconds) | {"share_of_training": shares}


def looking_table(figures: Figures) -> Table:
    """Lay out what it costs."""
    table = Table(title="Looking at the mixing of 100 images, 3x32x32, n = 16 (median)")
    for heading in ("", "once", "of a PreActResNet-18 step", "of one with a quarter of the width"):
        table.add_column(heading, justify="left" if not heading else "right")
    every = {"figures": f"every {LOGGED_EVERY}th step", "picture": f"every {LOG_IMAGES_EVERY_N_STEPS}th step"}
    for name, period in every.items():
        shares = (figures["share_of_training"][step][name] for step in ("step", "narrow_step"))
        table.add_row(f"{name}, {period}", f"{figures[name]:.1f} ms", *(f"{share:.4%}" for share in shares))
    return table
