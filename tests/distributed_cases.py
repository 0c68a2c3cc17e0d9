"""Modules and loaders of the Trainer tests, and what their processes run: ``python distributed_cases.py <case> <folder>``."""

from __future__ import annotations

import hashlib
import inspect
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

import lightning_puzzlemix as pm

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:
    # Before torch 2.6 it had another name and ran on GPUs alone.
    fully_shard = None

EPOCHS, BATCHES = 3, 4
KILLED_AT = (1, 2)
# Checkpoints hold more than weights; before Lightning 2.6 nobody had to say so.
WHOLE = {"weights_only": False} if "weights_only" in inspect.signature(pl.Trainer.fit).parameters else {}


def small_net() -> nn.Sequential:
    """Make a net without kinks: where a ReLU sits at zero, rounding would decide between two different gradients."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU(), nn.Flatten(), nn.Linear(6 * 64, 5)
    )


class Classifier(pl.LightningModule):
    """A small classifier that keeps what its hook and its step were given: (images, targets, originals, classes)."""

    def __init__(self, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.net = small_net()
        self.learning_rate = learning_rate
        self.journal: list[tuple[Tensor, ...]] = []
        self.mixed: list[bool] = []
        self.last_mixed: pm.MixedBatch | None = None

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.original = (batch[0], batch[1])
        # Batches are mixed when all hooks of this name have run.
        self.last_mixed = self.find_mixed()

    def find_mixed(self) -> pm.MixedBatch | None:
        return next((each.last for each in self.trainer.callbacks if isinstance(each, pm.MixCallback)), None)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.journal.append((batch[0], batch[1], *self.original))
        self.mixed.append(self.find_mixed() is not self.last_mixed)
        return F.cross_entropy(self(batch[0]), batch[1])

    def mean_loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self(images), targets)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.learning_rate)


def make_batch(rank: int, epoch: int, index: int, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + 100 * epoch + index)
    return torch.rand(size, 3, 8, 8, generator=generator), torch.randint(5, (size,), generator=generator)


class Batches:
    """A loader that yields the same tuples in every epoch."""

    def __init__(self, *batches: Any, count: int = BATCHES, rank: int = 0) -> None:
        self.batches = batches or tuple(make_batch(rank, 0, index) for index in range(count))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Resumable(Batches):
    """Data as a function of rank, epoch and batch index: continues at the batch of the trainer's progress."""

    trainer: pl.Trainer

    def __iter__(self) -> Iterator[Any]:
        for index in range(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready, BATCHES):
            yield make_batch(self.trainer.global_rank, self.trainer.current_epoch, index)


def config(**values: Any) -> pm.PuzzleMixConfig:
    return pm.PuzzleMixConfig(**{"grid_sizes": (2, 4), "threads": 1, **values})


def quiet(*callbacks: pl.Callback, **arguments: Any) -> pl.Trainer:
    """Make a Trainer that prints and writes nothing."""
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings |= {"accelerator": "cpu", "devices": 1, "enable_model_summary": False}
    return pl.Trainer(callbacks=list(callbacks), **{**settings, **arguments})


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters, gathered where FSDP2 shards them."""
    named = [(name.replace("_fsdp_wrapped_module.", ""), value.detach()) for name, value in module.named_parameters()]
    return {name: (value.full_tensor() if hasattr(value, "full_tensor") else value).clone() for name, value in named}


def saliency_of(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Compute saliency by hand, with the model as it is."""
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), targets), leaf)
    return gradient.pow(2).mean(1).sqrt()


class Journal(pl.Callback):
    """Keeps what each batch was mixed by."""

    def __init__(self, mixing: pm.PuzzleMixCallback) -> None:
        self.mixing = mixing
        self.rows: list[tuple[Tensor, Tensor, Tensor] | None] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        last = self.mixing.last
        self.rows.append((last.draw.permutation, last.saliency, last.ratio) if module.mixed[-1] else None)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        wrapped = isinstance(trainer.strategy.model, FullyShardedDataParallel)
        with FullyShardedDataParallel.summon_full_params(trainer.strategy.model) if wrapped else nullcontext():
            self.weights = weights(module)


def fit_ddp(
    strategy: Any, folder: Path, *, module: Any = None, accumulate: int = 1, trainer: Any = None, **arguments: Any
) -> dict:
    """Fit once in this process group and report; a refusal is reported by its message."""
    arguments = {"clean_weight": 0.5, "prob": 0.5, **arguments}
    module, mixing = module or Classifier(), pm.PuzzleMixCallback(config(), **arguments)
    journal = Journal(mixing)
    logger = pl.loggers.CSVLogger(folder, name=None, version="log") if arguments.get("seed") == 2 else False
    options = {"devices": 2, "strategy": strategy, "logger": logger, "log_every_n_steps": 1, **(trainer or {})}
    trainer = quiet(mixing, journal, accumulate_grad_batches=accumulate, **options)
    loader = Batches(count=8, rank=int(os.environ.get("LOCAL_RANK", trainer.global_rank)))
    try:
        trainer.fit(module, loader)
    except (ValueError, AssertionError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    report = {"journal": module.journal, "rows": journal.rows, "weights": journal.weights}
    return report | {"seed": mixing.state_dict()["seed"]}


class Sharded(Classifier):
    def configure_model(self) -> None:
        for part in (self.net[0], self.net[4], self.net):
            fully_shard(part, mesh=self.device_mesh["data_parallel"])


def _fsdp1() -> Any:
    """Make Lightning's FSDP1 strategy run on the CPU, where it works although both Lightning and torch ask for a GPU."""

    class OnHost(FullyShardedDataParallel):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "device_id": torch.device("cpu")})

    torch.distributed.fsdp.FullyShardedDataParallel = OnHost
    return type("FSDPOnHost", (FSDPStrategy,), {})(auto_wrap_policy={nn.Conv2d, nn.Linear})


def half_precision() -> MixedPrecision:
    """Make float16 with loss scaling; named in the Trainer, "16-mixed" would become "bf16-mixed" on the CPU."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))


def strategies(folder: Path) -> dict[str, Any]:
    with_unused = Classifier()
    with_unused.unused = nn.Linear(3, 3)
    return (fsdp2(folder) if fully_shard else {}) | {
        "ddp": fit_ddp(DDPStrategy(), folder, seed=2),
        "find unused": fit_ddp(DDPStrategy(find_unused_parameters=True), folder, module=with_unused),
        "static graph": fit_ddp(DDPStrategy(static_graph=True), folder),
        "accumulated": fit_ddp(DDPStrategy(), folder, accumulate=3),
        "bare": fit_ddp(DDPStrategy(), folder, clean_weight=0.0),
        "fsdp1": fit_ddp(_fsdp1(), folder, clean_weight=0.0),
        "fsdp1 clean": fit_ddp(_fsdp1(), folder),
        "fsdp1 method": fit_ddp(_fsdp1(), folder, clean_weight=0.0, seed=1, saliency_loss="mean_loss"),
        "fsdp1 bf16": fit_ddp(_fsdp1(), folder, clean_weight=0.0, seed=1, trainer={"precision": "bf16-mixed"}),
        "ddp fp16": fit_ddp(DDPStrategy(), folder, seed=1, trainer={"plugins": [half_precision()]}),
        "seeds": fit_ddp(DDPStrategy(), folder, seed=3 + int(os.environ.get("LOCAL_RANK", 0))),
    }


def fsdp2(folder: Path) -> dict[str, Any]:
    def fit(**arguments: Any) -> dict:
        return fit_ddp(ModelParallelStrategy(2, 1), folder, module=Sharded(), **arguments)

    return {
        "fsdp2": fit(clean_weight=0.0),
        "fsdp2 clean": fit(),
        "fsdp2 bf16": fit(clean_weight=0.0, seed=1, trainer={"precision": "bf16-mixed"}),
    }


class Reporting(Classifier):
    """Writes its report to a file, since spawned processes return nothing to the parent."""

    def __init__(self, folder: Path, mixing: pm.PuzzleMixCallback) -> None:
        super().__init__()
        self.folder, self.mixing = folder, mixing

    def on_train_end(self) -> None:
        report = {"weights": weights(self), "journal": self.journal, "seed": self.mixing.state_dict()["seed"]}
        torch.save(report, self.folder / f"spawned.{self.global_rank}.pt")


def spawn(folder: Path) -> None:
    """Fit on one device, then go on with the same callback under ddp_spawn, which pickles it."""
    mixing, first = pm.PuzzleMixCallback(config()), Classifier()
    # Lightning hangs the module's methods onto callbacks: this first module must not be pickled with it.
    first.unpicklable = lambda: None
    quiet(mixing).fit(first, Batches())
    quiet(mixing, devices=2, strategy="ddp_spawn").fit(Reporting(folder, mixing), Batches())


class Fallible(Classifier):
    """Fails in the batch ``KILLED_AT``, by ``how``; with momentum, so that the optimizer has a state to resume."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.how = how
        self.seen: list[tuple[int, int, bool, str]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if (self.current_epoch, batch_idx) == KILLED_AT and self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if (self.current_epoch, batch_idx) == KILLED_AT and self.how == "raise":
            raise RuntimeError("the step fails")
        digest = hashlib.sha256(batch[0].numpy().tobytes() + batch[1].numpy().tobytes()).hexdigest()
        loss = super().training_step(batch, batch_idx)
        self.seen.append((self.current_epoch, batch_idx, self.mixed[-1], digest))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def fit_resumable(folder: Path, how: str = "", checkpoint: Path | None = None, seed: int | None = None) -> dict:
    module, loader = Fallible(how), Resumable()
    mixing = pm.PuzzleMixCallback(config(), prob=0.7, clean_weight=0.5, seed=seed)
    steps = ModelCheckpoint(folder / "steps", "{step}", every_n_train_steps=1, save_top_k=-1)
    epochs = ModelCheckpoint(folder / "epochs", "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    savers = (steps, epochs, OnExceptionCheckpoint(folder, "exception")) if how else ()
    processes = int(os.environ.get("WORLD_SIZE", 1))
    strategy = "ddp" if processes > 1 else "auto"
    # Checkpoints are made only where they are looked at: Lightning's own would land in the working folder.
    options = {"enable_checkpointing": bool(how), "max_epochs": EPOCHS, "devices": processes, "strategy": strategy}
    loader.trainer = quiet(mixing, *savers, **options)
    try:
        loader.trainer.fit(module, loader, ckpt_path=checkpoint, **WHOLE)
    except RuntimeError as error:
        if str(error) != "the step fails":
            raise
    return {"seen": module.seen, "weights": weights(module), "seed": mixing.state_dict()["seed"]}


def resumed(folder: Path) -> dict[str, Any]:
    """Run through, be resumed from what the killed run left, and from an exception's checkpoint."""
    steps = BATCHES * KILLED_AT[0] + KILLED_AT[1]
    saved = folder / "killed"
    full = fit_resumable(folder, seed=11)
    mid = fit_resumable(folder, checkpoint=saved / "steps" / f"step={steps}.ckpt")
    end = fit_resumable(folder, checkpoint=saved / "epochs" / "epoch=0.ckpt")
    fit_resumable(folder / "raised", "raise", seed=11)
    raised = fit_resumable(folder, checkpoint=folder / "raised" / "exception.ckpt")
    return {"full": full, "mid-epoch": mid, "epoch end": end, "exception": raised}


CASES = {
    "strategies": strategies,
    "spawn": spawn,
    "killed": lambda folder: fit_resumable(folder / "killed", "kill", seed=11),
    "resumed": resumed,
}


def launch(case: str, folder: Path, *, processes: int = 1, expect: int = 0, timeout: float = 120) -> list[Any]:
    """Run a case in processes of its own, as torchrun would, and return each one's report; a hang fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = {key: value for key, value in os.environ.items() if key != "PL_GLOBAL_SEED"}
    base |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "20000"}
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    running, logs = [], [folder / f"{case}.{rank}.log" for rank in range(processes)]
    for rank in range(processes):
        world = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank}
        env = base | (shared | {key: str(value) for key, value in world.items()} if processes > 1 else {})
        with logs[rank].open("w") as log:
            command = [sys.executable, __file__, case, str(folder)]
            running.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True))
    deadline = time.monotonic() + timeout
    try:
        codes = [process.wait(max(0.1, deadline - time.monotonic())) for process in running]
    except subprocess.TimeoutExpired:
        codes = ["timeout"]
    finally:
        for process in (each for each in running if each.poll() is None):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    # Where one rank is killed, what ends the others may be that it is gone.
    right = codes[0] == expect and all(bool(code) == bool(expect) for code in codes)
    assert right, (codes, [log.read_text()[-3000:] for log in logs])
    reports = [folder / f"{case}.{rank}.pt" for rank in range(processes)]
    return [torch.load(path, weights_only=False) for path in reports if path.exists()]


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    case, folder = sys.argv[1], Path(sys.argv[2])
    report = CASES[case](folder)
    if report is not None:
        torch.save(report, folder / f"{case}.{os.environ.get('RANK', 0)}.pt")
