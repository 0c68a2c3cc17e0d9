"""One method: train as long as the others, then test."""

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
    """Trains with SGD, and a learning rate that rises to its maximum and falls to zero over so many steps."""

    def __init__(self, net: nn.Module, rate: float, steps: int) -> None:
        super().__init__()
        self.net, self.rate, self.steps = net, rate, steps

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits."""
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy with hard or soft targets."""
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def configure_optimizers(self) -> Any:
        """SGD, and a schedule of steps."""
        optimizer = torch.optim.SGD(self.parameters(), self.rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, self.steps, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Journal(pl.Callback):
    """Writes a line for each epoch, and stops at the deadline."""

    def __init__(self, path: Path, deadline: float) -> None:
        self.path, self.deadline, self.start = path, deadline, time.time()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line."""
        loss, seconds = float(trainer.callback_metrics["train_loss"]), round(time.time() - self.start, 2)
        with self.path.open("a") as file:
            file.write(json.dumps({"epoch": trainer.current_epoch + 1, "seconds": seconds, "train_loss": loss}) + "\n")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop when the time is up."""
        trainer.should_stop = trainer.should_stop or time.time() > self.deadline


def run(method: str, images: Path, out: Path, settings: dict[str, Any], meeting: Any, times: Any) -> None:
    """Time some steps beside the other processes, agree with them on the number of epochs, train, test, write the result."""
    device, seed = torch.device("cuda" if torch.cuda.is_available() else "cpu"), settings["seed"]
    torch.backends.cudnn.benchmark = True
    data = {name: torch.from_numpy(array).to(device) for name, array in np.load(images).items()}

    def fit(steps: int, *callbacks: pl.Callback) -> tuple[Classifier, pl.Trainer]:
        pl.seed_everything(seed)
        net = PreActResNet(num_classes=int(data["train_classes"].max()) + 1, width=settings["width"])
        module = Classifier(net.to(memory_format=torch.channels_last), settings["rate"], steps)
        mixing = METHODS[method](seed=seed, log_images_every_n_steps=None)
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, precision="bf16-mixed", max_steps=steps,
            callbacks=[*([] if mixing is None else [mixing]), *callbacks], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, DeviceBatches(data["train_images"], data["train_classes"], settings["batch_size"], seed))
        return module, trainer

    few, per_epoch = settings["timed_steps"], len(data["train_images"]) // settings["batch_size"]
    # The first steps compile kernels and fill caches.
    fit(few)
    meeting.wait()
    start = time.perf_counter()
    fit(few)
    times[method] = (time.perf_counter() - start) / few
    meeting.wait()
    # The same for all, so the slowest decides.
    left = settings["deadline"] - time.time() - settings["reserve"]
    epochs = max(1, int(left / max(times.values())) // per_epoch)
    start = time.perf_counter()
    journal = Journal(out / f"{method}.jsonl", settings["deadline"] - settings["reserve"] / 2)
    module, trainer = fit(epochs * per_epoch, journal)
    result = {
        "method": method, "seed": seed, "epochs": epochs, "steps": trainer.global_step, "planned_steps": epochs * per_epoch,
        "seconds": round(time.perf_counter() - start, 1), "width": settings["width"], "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
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
    scores = torch.cat(logits)
    return {
        "top1": float((scores.argmax(1) == classes).float().mean()),
        "calibration_error": float(multiclass_calibration_error(scores.softmax(1), classes, scores.shape[1])),
        "nll": float(F.cross_entropy(scores, classes)),
        "fgsm_4_255": float(torch.cat(attacked).float().mean()),
    }
