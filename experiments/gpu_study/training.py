"""One method: train as long as the others, then test."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

import lightning_puzzlemix as pm
from experiments.gpu_study.data import MEAN, STD, DeviceBatches, normalize
from experiments.models import PreActResNet

EPS = 4 / 255
# Steps that are timed before the number of epochs is chosen, after as many that are not.
TIMED_STEPS = 40
METHODS: dict[str, Callable[..., pl.Callback | None]] = {
    "none": lambda **_: None,
    "mixup": pm.MixUpCallback,
    "cutmix": pm.CutMixCallback,
    "manifold": lambda **options: pm.ManifoldMixCallback(layers=["input", "net.stages.0", "net.stages.1"], **options),
    "puzzlemix": lambda **options: pm.PuzzleMixCallback(
        pm.PuzzleMixConfig(transport_size=4, threads=2, mean=MEAN, std=STD), **options
    ),
}


class Classifier(pl.LightningModule):
    """Trains with SGD, and a learning rate that rises to its maximum and falls to zero."""

    def __init__(self, net: nn.Module, rate: float, steps: int) -> None:
        super().__init__()
        self.net, self.rate, self.steps = net, rate, steps

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits."""
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy with hard or soft targets."""
        images, targets = batch
        loss = F.cross_entropy(self(images), targets)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def configure_optimizers(self) -> Any:
        """SGD, and a schedule of steps."""
        optimizer = torch.optim.SGD(self.parameters(), self.rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.rate, total_steps=self.steps, cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Journal(pl.Callback):
    """Writes a line for each epoch, and stops at the deadline."""

    def __init__(self, path: Path, deadline: float) -> None:
        self.path, self.deadline, self.start = path, deadline, time.time()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line."""
        line = {"epoch": trainer.current_epoch + 1, "seconds": round(time.time() - self.start, 2)}
        line["train_loss"] = float(trainer.callback_metrics["train_loss"])
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop when the time is up."""
        trainer.should_stop = trainer.should_stop or time.time() > self.deadline


def fit(
    method: str, batches: DeviceBatches, settings: dict[str, Any], steps: int, journal: Journal | None = None
) -> tuple[Classifier, pl.Trainer]:
    """Train a new network for so many steps."""
    pl.seed_everything(settings["seed"])
    device = batches.images.device
    net = PreActResNet(num_classes=int(settings["classes"]), width=settings["width"])
    module = Classifier(net.to(memory_format=torch.channels_last), settings["rate"], steps)
    mixing = METHODS[method](seed=settings["seed"], log_images_every_n_steps=None)
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, precision="bf16-mixed", max_steps=steps,
        callbacks=[each for each in (mixing, journal) if each is not None], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, batches)
    return module, trainer


def run(method: str, arrays_path: Path, out: Path, settings: dict[str, Any], meeting: Any, times: Any) -> None:
    """Time some steps beside the other processes, agree with them on the number of steps, train, test, write the result."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    arrays = np.load(arrays_path)
    data = {name: torch.from_numpy(arrays[name]).to(device) for name in arrays.files}
    batches = DeviceBatches(data["train_images"], data["train_classes"], settings["batch_size"], settings["seed"])
    settings = settings | {"classes": int(data["train_classes"].max()) + 1}
    few = settings["timed_steps"]
    fit(method, batches, settings, few)
    meeting.wait()
    start = time.perf_counter()
    fit(method, batches, settings, few)
    times[method] = (time.perf_counter() - start) / few
    meeting.wait()
    left = settings["deadline"] - time.time() - settings["reserve"]
    # The same for all, so the slowest decides.
    epochs = max(1, int(left / max(times.values())) // len(batches))
    steps = epochs * len(batches)
    journal = Journal(out / f"{method}.jsonl", settings["deadline"] - settings["reserve"] / 2)
    batches = DeviceBatches(data["train_images"], data["train_classes"], settings["batch_size"], settings["seed"])
    start = time.perf_counter()
    module, trainer = fit(method, batches, settings, steps, journal)
    result = {
        "method": method, "seed": settings["seed"], "epochs": epochs, "steps": trainer.global_step, "planned_steps": steps,
        "seconds": round(time.perf_counter() - start, 1), "step_seconds_at_first": times[method], "width": settings["width"],
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "torch": torch.__version__,
    }  # fmt: skip
    result |= test(module.to(device), data["test_images"], data["test_classes"])
    (out / f"{method}.json").write_text(json.dumps(result, indent=1) + "\n")


def test(module: nn.Module, images: Tensor, classes: Tensor) -> dict[str, float]:
    """Top-1, calibration error, likelihood, and top-1 under FGSM of 4/255, in float32."""
    module.eval().requires_grad_(False)
    logits, attacked = [], []
    for part, wanted in zip(images.split(500), classes.split(500), strict=True):
        inputs = normalize(part).requires_grad_()
        output = module(inputs)
        (gradient,) = torch.autograd.grad(F.cross_entropy(output, wanted, reduction="sum"), inputs)
        pixels = (part.float() / 255 + EPS * gradient.sign()).clamp(0, 1)
        logits.append(output.detach())
        attacked.append(module(normalize(255 * pixels)).argmax(1) == wanted)
    scores, count = torch.cat(logits), int(logits[0].shape[1])
    return {
        "top1": float((scores.argmax(1) == classes).float().mean()),
        "calibration_error": float(multiclass_calibration_error(scores.softmax(1), classes, count)),
        "nll": float(F.cross_entropy(scores, classes)),
        "fgsm_4_255": float(torch.cat(attacked).float().mean()),
    }
