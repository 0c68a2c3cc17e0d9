"""Whole training steps with every way of mixing, the memory they take, each source of saliency, and the cost of logging."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytorch_lightning as pl
import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from experiments.benchmarks.setup import CORES, GRID_SIZES, photograph_crops, trained_net, training_steps
from experiments.benchmarks.timing import Metrics, peak_device_memory, print_table, time_interleaved
from experiments.common import UserError
from experiments.models import PreActResNet
from experiments.show import load_network
from experiments.training.module import Classifier
from lightning_puzzlemix import CutMix, ManifoldMix, MixDraw, MixUp, PuzzleMix, PuzzleMixCallback, PuzzleMixConfig
from lightning_puzzlemix.callbacks import LOG_IMAGES_EVERY_N_STEPS
from lightning_puzzlemix.core import Grid, block_saliency
from lightning_puzzlemix.monitoring import mix_metrics, render_mixes

# Steps between two loggings: Lightning's default, log_every_n_steps=50, and that of the callback.
PERIODS = {"metrics": 50, "image": LOG_IMAGES_EVERY_N_STEPS}


def puzzle_mixers(config: PuzzleMixConfig) -> dict[str, PuzzleMix]:
    """Make a mixer for each source of saliency."""
    return {
        "gradient": PuzzleMix(config),
        "gradient, bf16": PuzzleMix(config, saliency_precision="bf16-mixed"),
        "feature, stages.0": PuzzleMix(config, saliency="feature", saliency_layer="stages.0"),
        "feature, stages.1": PuzzleMix(config, saliency="feature", saliency_layer="stages.1"),
        "feature, default": PuzzleMix(config, saliency="feature"),
        "spectral": PuzzleMix(config, saliency="spectral"),
    }


def measure_steps(rounds: PositiveInt = 5) -> Metrics:
    """Training steps of PreActResNet-18 and its gradient pass alone, batch 100 at 32 px, as ratios to the plain step.

    Args:
        rounds: Measured rounds of each comparison.
    """
    torch.manual_seed(0)
    net, (images, _), classes = PreActResNet(num_classes=100), photograph_crops(100, 32), torch.arange(100)
    baselines = {"MixUp": MixUp(), "CutMix": CutMix(), "CutMix, per sample": CutMix(per_sample=True)}
    parts = {"no transport": {"transport": False}, "two labels": {"num_labels": 2}}
    if find_spec("gco"):
        parts["gco"] = {"solver": "gco"}
    ablations = {f"gradient, {name}": PuzzleMix(PuzzleMixConfig(**part)) for name, part in parts.items()}
    layers = {"manifold mixup, stages.0": ManifoldMix(["stages.0"])}
    mixers = {**puzzle_mixers(PuzzleMixConfig()), **ablations, **baselines, **layers}
    steps = training_steps(net, images, classes, mixers)
    steps["gradient pass alone"] = lambda: mixers["gradient"].source.compute(net, images, classes)
    plain = steps.pop("plain")
    metrics: Metrics = {}
    for name, step in steps.items():
        # Each beside a plain step of its own: over all of them the machine's speed drifts by more than they differ.
        times = time_interleaved(rounds, {"plain": plain, name: step})
        mixed, alone = (times[each] / 1000 for each in (name, "plain"))
        metrics[name] = {"seconds": mixed, "plain": alone, "ratio": mixed / alone}
    print_table("Training steps, PreActResNet-18, 100 images, 3x32x32: median seconds", metrics)
    return {"rounds": rounds, "steps": metrics, "peak_device_mib": measure_memory()}


def measure_memory() -> dict[str, float | None]:
    """Peak MiB of a CUDA device that trains PreActResNet-18, batch 100 at 32 px, without the callback and with it."""

    def fit(*callbacks: pl.Callback) -> None:
        data = DataLoader(TensorDataset(photograph_crops(300, 32)[0], torch.arange(300) % 100), batch_size=100)
        module = Classifier(PreActResNet(num_classes=100), num_classes=100, optimizer=partial(torch.optim.SGD, lr=0.1))
        trainer = pl.Trainer(barebones=True, devices=1, max_epochs=1, callbacks=list(callbacks))
        trainer.fit(module, data)

    runs = {"plain": fit, "PuzzleMixCallback": partial(fit, PuzzleMixCallback())}
    peaks = {name: peak_device_memory(run) for name, run in runs.items()}
    shown = {name: {"MiB": "not measured: no device" if peak is None else peak} for name, peak in peaks.items()}
    print_table("Peak device memory of training PreActResNet-18, 100 images, 3x32x32", shown)
    return peaks


def measure_saliency(checkpoint: str | None = None, rounds: PositiveInt = 11) -> Metrics:
    """Cost of every saliency source, and correlation of its block maps with those of the gradient.

    Args:
        checkpoint: Run folder of `python -m experiments.train` or a .ckpt in its checkpoints/, of a PreActResNet; left out: a
            network that is quickly trained on photographs.
        rounds: Measured rounds of each comparison.
    """
    net, images, classes, config = load_model(checkpoint)
    # The last parts of the path: the others describe this machine.
    name = Path(*Path(checkpoint).parts[-4:]) if checkpoint else None
    description = f"{name} on its validation images" if checkpoint else "quickly trained on photographs"
    mixers = puzzle_mixers(config)
    metrics: Metrics = {key: {"correlation": each} for key, each in correlations(net, images, classes).items()}
    net.train()
    passes = {f"pass {key}": partial(each.source.compute, net, images, classes) for key, each in mixers.items()}
    times = time_interleaved(rounds, passes | training_steps(net, images, classes, mixers))
    plain, rows = times["plain"], {}
    for key, row in metrics.items():
        alone, step = times[f"pass {key}"], times[key]
        cost = {"seconds": alone / 1000, "share_of_step": alone / plain, "step_ratio": step / plain}
        rows[key] = cost | {f"n={n}": value for n, value in row["correlation"].items()}
        row |= cost
    shape = list(images.shape)
    print_table(f"Saliency: {description}, images {shape}, a plain step takes {plain:.0f} ms", rows)
    found = {"model": description, "images": shape, "step": plain / 1000, "sources": metrics}
    return {"rounds": rounds, "saliency_sources": found}


def load_model(checkpoint: str | None, count: int = 100) -> tuple[nn.Module, Tensor, Tensor, PuzzleMixConfig]:
    """Load a run's PreActResNet with validation images, their classes and scale; without a run: trained_net and crops."""
    if checkpoint is None:
        return deepcopy(trained_net()), *photograph_crops(count, 32), PuzzleMixConfig()
    net, data, _ = load_network(checkpoint)
    if not isinstance(net, PreActResNet):
        raise UserError(f"--checkpoint must hold a PreActResNet, whose layers are compared, got {type(net).__name__}")
    data.setup("validate")
    split = data.split("val")
    indices = torch.linspace(0, len(split) - 1, min(count, len(split))).long().tolist()
    images, classes = default_collate([split[index] for index in indices])
    return net, images, classes, PuzzleMixConfig(mean=data.mean, std=data.std)


def correlations(net: nn.Module, images: Tensor, classes: Tensor) -> dict[str, dict[str, float]]:
    """Return for every source and n the mean over images of Pearson's correlation of its (n, n) map with the gradient's."""
    mixers = puzzle_mixers(PuzzleMixConfig())
    maps = {name: mixer.source.compute(net, images, classes).saliency for name, mixer in mixers.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in maps}
    for n in (n for n in GRID_SIZES if n <= min(images.shape[2:])):
        grid = Grid.of(*images.shape[2:], n)
        blocks = {name: block_saliency(each, grid).flatten(1).double() for name, each in maps.items()}
        for name, own in blocks.items():
            pairs = zip(own, blocks["gradient"], strict=True)
            # Constant maps have no correlation: NaN, and left out.
            values = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]
            found[name][str(n)] = float(torch.stack(values).nanmean())
    return found


def measure_logging_cost(rounds: PositiveInt = 5, threads: PositiveInt = CORES) -> Metrics:
    """Metrics and image of a mixed batch against a plain training step, 100 images at 32 px, n = 16.

    Args:
        rounds: Measured rounds of each comparison.
        threads: Threads of the solver.
    """
    torch.manual_seed(0)
    images, classes = photograph_crops(100, 32)
    mixer = PuzzleMix(PuzzleMixConfig(threads=threads), saliency="spectral", num_classes=8)
    mixed = mixer(nn.Identity(), images, classes, MixDraw(torch.randperm(100), 0.5, 16))
    candidates = {
        "step": training_steps(PreActResNet(num_classes=100), images, torch.arange(100), {})["plain"],
        "narrow_step": training_steps(trained_net(), images, classes, {})["plain"],
        "metrics": partial(mix_metrics, mixed),
        "image": partial(render_mixes, mixed, classes),
    }
    times = time_interleaved(rounds, candidates)
    steps = ("step", "narrow_step")
    shares = {step: {name: times[name] / times[step] / n for name, n in PERIODS.items()} for step in steps}
    print_table("Logging the mixing of 100 images, 3x32x32, n = 16: median", {"ms": times})
    periods = ", ".join(f"{name} every {period} steps" for name, period in PERIODS.items())
    print_table(f"Its share of the training time of PreActResNet-18, and of a narrow one: {periods}", shares)
    return {"rounds": rounds, "logging_cost": times | {"share_of_training": shares}}
