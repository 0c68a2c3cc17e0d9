"""MixCallback: when a batch is mixed, and how a Trainer's training_step gets it; shared by all mixing callbacks."""

from __future__ import annotations

import dataclasses
import os
import secrets
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from lightning_puzzlemix.callbacks.batch import Location, find_samples
from lightning_puzzlemix.callbacks.batch_sharing import check_sharing, responsible
from lightning_puzzlemix.callbacks.batch_swap import BatchSwap
from lightning_puzzlemix.callbacks.containers import Keys, Path, check_keys, read
from lightning_puzzlemix.callbacks.fsdp import forward_module
from lightning_puzzlemix.callbacks.lightning_names import CallbackOfBoth
from lightning_puzzlemix.callbacks.metric_adapter import MetricAdapter
from lightning_puzzlemix.callbacks.patched_method import PatchedMethod
from lightning_puzzlemix.callbacks.views import mixed_entries, needs_classes, unmixed_entries
from lightning_puzzlemix.mixers import Mixer
from lightning_puzzlemix.mixers.timer import PhaseTimer
from lightning_puzzlemix.monitoring.image_logger import MixImageLogger
from lightning_puzzlemix.monitoring.metrics import mix_metrics
from lightning_puzzlemix.normalization import datamodule_normalization
from lightning_puzzlemix.results import MixedBatch
from lightning_puzzlemix.saliency import PerModel, count_classes
from lightning_puzzlemix.sampling import MixDraw, draw_decision
from lightning_puzzlemix.validation import check_epochs, check_log_images_every, check_probability

LOG_IMAGES_EVERY_N_STEPS = 1000
_TARGETS = ("soft", "pair")


class MixCallback(CallbackOfBoth):
    """Mix training batches before ``training_step`` sees them; the base of all mixing callbacks.

    The model's loss must take (B, classes) soft targets, as ``torch.nn.functional.cross_entropy`` does, or
    ``targets="pair"`` be used. Every training batch has its targets in that form, also one that is not mixed.
    Classification metrics of torchmetrics on the module that are given these targets get each sample's dominant class
    instead. Batches may be lists, tuples, namedtuples, dicts or dataclasses, and nested in each other as CombinedLoader
    yields them; validation, test and prediction are untouched.

    Args:
        mixer: What mixes a batch.
        prob: Chance in [0, 1] that a batch is mixed; the same decision on every rank.
        start_epoch: First epoch (from 0) in which batches are mixed, >= 0.
        stop_epoch: First epoch in which they are not mixed any more; ``None``: never.
        targets: What ``training_step`` gets for targets: ``"soft"``, (B, classes) floats, or ``"pair"``,
            :class:`PairTargets` (first, second, ratio) for losses that need classes (see :func:`pair_loss`).
        seed: Of all draws; each also depends on rank, epoch and batch index, so that a resumed run draws what the
            uninterrupted one would have. ``None`` takes ``seed_everything``'s, else a random one, kept in checkpoints.
        image_key: Where a batch holds its images: name, position, or a path such as ``"labeled.0"``; ``None`` finds them.
            A list names several views of the same images, which are mixed alike: the first decides how.
        target_key: Where it holds its targets; ``None`` finds them. A list names several forms of the same targets, which
            are mixed alike: the saliency is taken for the first.
        log_images_every_n_steps: Optimizer steps between two pictures of a mix for W&B, TensorBoard or CSV loggers, >= 1;
            ``None``: no pictures.

    Attributes:
        last: The :class:`MixedBatch` of the last mixed batch, detached; ``None`` before the first. A batch is mixed when all
            ``on_train_batch_start`` hooks have run, before ``training_step``.
    """

    name = "mix"

    def __init__(
        self,
        mixer: Mixer,
        *,
        prob: float = 1.0,
        start_epoch: int = 0,
        stop_epoch: int | None = None,
        targets: str = "soft",
        seed: int | None = None,
        image_key: Keys | None = None,
        target_key: Keys | None = None,
        log_images_every_n_steps: int | None = LOG_IMAGES_EVERY_N_STEPS,
    ) -> None:
        check_probability("prob", prob)
        check_epochs(start_epoch, stop_epoch)
        if targets not in _TARGETS:
            raise ValueError(f"targets must be one of {_TARGETS}, got {targets!r}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
            raise ValueError(f"seed must be a non-negative integer or None, got {seed!r}")
        check_log_images_every(log_images_every_n_steps)
        self.mixer = mixer
        self.prob = prob
        self.start_epoch = start_epoch
        self.stop_epoch = stop_epoch
        self.targets = targets
        self.seed = seed
        self.image_key = check_keys("image_key", image_key)
        self.target_key = check_keys("target_key", target_key)
        self.last: MixedBatch | None = None
        self._drawn_seed: int | None = None
        self._swap = BatchSwap(type(self).__name__)
        self._hook: PatchedMethod | None = None
        self._metrics = MetricAdapter()
        self._said_metrics = False
        self._timer = PhaseTimer()
        self._pictures = MixImageLogger(self.name, log_images_every_n_steps)
        self._model: nn.Module | None = None
        self._classes_of: PerModel[int] = PerModel()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of "saliency" and "mixing" since the running (or last) epoch began."""
        return {"saliency": 0.0, "mixing": 0.0} | self._timer.totals()

    def draw(self, images: Tensor, *, rank: int = 0, epoch: int = 0, batch_idx: int = 0, part: int = 0) -> MixDraw:
        """Draw the random choices for one batch; override this to fix any of them.

        Args:
            images: (B, C, H, W) images of the batch.
            rank: Global rank of this process.
            epoch: Running epoch.
            batch_idx: Index of the batch in it.
            part: Which of several image batches nested in the batch.
        """
        key = (self._seed_in_force(), rank, epoch, batch_idx)
        return self.mixer.draw(images, key=(*key, part) if part else key)

    def _seed_in_force(self) -> int:
        if self.seed is not None:
            return self.seed
        if self._drawn_seed is None:
            globally = os.environ.get("PL_GLOBAL_SEED")
            self._drawn_seed = int(globally) if globally else secrets.randbits(31)
        return self._drawn_seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work and settle the seed."""
        if stage != "fit":
            return
        if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
            raise ValueError(
                f"{type(self).__name__} cannot mix for training_step(self, dataloader_iter), which fetches its own batches: "
                "use training_step(self, batch, batch_idx)"
            )
        check_sharing(self._mixing_callbacks(trainer))
        self._agree_on_seed(trainer)

    def _agree_on_seed(self, trainer: pl.Trainer) -> None:
        """Take rank 0's seed: with seeds of their own, ranks would decide differently whether to mix a batch."""
        first = int(trainer.strategy.broadcast(self._seed_in_force()))
        if not trainer.strategy.reduce_boolean_decision(self.seed in (None, first), all=True):
            raise ValueError(
                f"seed must be the same on every rank, got {self.seed} on rank {trainer.global_rank} and {first} on rank 0: "
                "leave the rank out of it, each rank draws differently anyway"
            )
        self._drawn_seed = first

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out who wants pictures, and forget what was true of another fit's module."""
        self._metrics.forget()
        self._said_metrics = False
        self._pictures.start(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's seconds from zero."""
        self._timer.reset()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mix the batch as soon as all hooks of this name have run, and let ``training_step`` get the mixed one.

        The module's own comes last, and whatever it or another callback does to the batch is part of what is mixed.
        """
        self._forget_batch()
        if responsible(self._mixing_callbacks(trainer), trainer.current_epoch) is not self:
            return

        def mix_after(original: Any, *args: Any, **kwargs: Any) -> Any:
            assert self._hook is not None
            self._hook.remove()
            response = original(*args, **kwargs)
            # With -1 the module ends the epoch before this batch.
            if response != -1:
                self._mix(trainer, pl_module, batch, batch_idx)
            return response

        self._hook = PatchedMethod(pl_module, "on_train_batch_start", mix_after)

    def _mixing_callbacks(self, trainer: pl.Trainer) -> list[MixCallback]:
        """Return all that mix in this Trainer; this alone where another callback passes its hooks on to it."""
        found = [each for each in trainer.callbacks if isinstance(each, MixCallback)]  # type: ignore[attr-defined]
        return found if self in found else [self]

    def _decide(self, epoch: int, batch_idx: int) -> bool:
        """Tell whether this batch is mixed; all ranks agree."""
        if epoch < self.start_epoch or (self.stop_epoch is not None and epoch >= self.stop_epoch):
            return False
        return draw_decision(self.prob, (self._seed_in_force(), epoch, batch_idx))

    def _mix(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Mix the batch, or give its targets the form of mixed ones, and let ``training_step`` get that."""
        mixes = self._decide(trainer.current_epoch, batch_idx)
        values: dict[Path, Any] = {}
        soft, originals = [], []
        for part, location in enumerate(find_samples(batch, self.image_key, self.target_key)):
            if mixes:
                values |= self._mixed_entries(trainer, pl_module, batch, batch_idx, part, location)
            else:
                values |= self._unmixed_entries(trainer, pl_module, batch, location)
            for path in (location.targets, *location.other_targets):
                soft.append(values[path])
                originals.append(read(batch, path))
        self._swap.install(pl_module, batch, values)
        self._metrics.install(pl_module, soft, originals)
        if mixes:
            self._log_figures(trainer, pl_module)

    def _mix_part(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, part: int, where: Location
    ) -> MixedBatch:
        images, targets = read(batch, where.images), read(batch, where.targets)
        # Left out where it is 0, so that overrides of draw() without it keep working.
        extra = {"part": part} if part else {}
        draw = self.draw(
            images, rank=trainer.global_rank, epoch=trainer.current_epoch, batch_idx=batch_idx, **extra
        )  # fmt: skip
        return self.mixer(
            self._callable_model(trainer, pl_module),
            images,
            targets,
            draw,
            forward_context=trainer.precision_plugin.forward_context,
            timer=self._timer,
            **self._mixer_options(batch),
        )

    def _mixer_options(self, batch: Any) -> dict[str, Any]:
        """Return what else the mixer is called with for a batch."""
        return {}

    def _mixed_entries(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, part: int, where: Location
    ) -> dict[Path, Any]:
        mixed = self._mix_part(trainer, pl_module, batch, batch_idx, part, where)
        entries = mixed_entries(self.mixer, batch, where, mixed, self.targets)
        self.last = dataclasses.replace(mixed, clean=None)
        self._pictures.offer(trainer, self.last, read(batch, where.targets), self._normalization)
        return entries

    def _unmixed_entries(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, where: Location
    ) -> dict[Path, Any]:
        """Give the targets of a batch that is not mixed the form that they have in those that are."""
        num_classes = getattr(self.mixer, "num_classes", None)
        if num_classes is None and needs_classes(batch, where, self.targets):
            num_classes = count_classes(
                self._callable_model(trainer, pl_module),
                read(batch, where.images),
                read(batch, where.targets),
                self._classes_of,
                trainer.precision_plugin.forward_context,
            )
        return unmixed_entries(self.mixer, batch, where, self.targets, num_classes)

    def _callable_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> nn.Module:
        if self._model is None:
            self._model = forward_module(trainer.strategy, pl_module)
        return self._model

    def _normalization(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Return mean and std of the images, for pictures: those of the datamodule, if it has them."""
        found = datamodule_normalization(getattr(trainer, "datamodule", None))
        if found is None or self.last is None:
            return {}
        mean, std = found.of_channels(self.last.images.shape[1])
        return {"mean": mean, "std": std}

    def _log_figures(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.last is None:
            return
        figures: dict[str, Any] = {"ratio": self.last.ratio.mean()}
        # Lightning's own DeviceStatsMonitor asks the same: the rest is measured only for the steps that are logged.
        if trainer.loggers and trainer._logger_connector.should_update_logs:
            figures |= mix_metrics(self.last)
        figures |= {f"{phase}_seconds": seconds for phase, seconds in self._timer.latest().items()}
        for figure, value in figures.items():
            name = f"{self.name}/{figure}"
            pl_module.log(name, value, on_step=True, on_epoch=False, batch_size=len(self.last.ratio))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave nothing on the module: a skipped batch has no end."""
        self._forget_batch()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Leave nothing on the module."""
        self._forget_batch()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last mix, and leave nothing on the module."""
        self._pictures.finish(trainer, self._normalization)
        self._forget_batch()
        self._model = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave nothing on the module: after an exception no other hook runs."""
        self._pictures.abandon()
        self._forget_batch()
        self._model = None

    def _forget_batch(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None
        self._swap.remove()
        self._metrics.remove()
        self._say_metrics()

    def _say_metrics(self) -> None:
        used, kept = self._metrics.used, self._metrics.kept
        if self._said_metrics or not (used or kept):
            return
        self._said_metrics = True
        if used:
            rank_zero_info(
                f"{type(self).__name__}: metrics on mixed batches are scored against the dominant class: {', '.join(used)}"
            )
        if kept:
            rank_zero_info(
                f"{type(self).__name__}: metrics that get soft targets in place of class indices, since they take them: "
                f"{', '.join(kept)}. One that needs classes may come out wrong: give it targets.argmax(1)"
            )

    @property
    def state_key(self) -> str:
        """Tell apart, in checkpoints, several callbacks of one class that mix different epochs."""
        if self.start_epoch == 0 and self.stop_epoch is None:
            return super().state_key
        return self._generate_state_key(start_epoch=self.start_epoch, stop_epoch=self.stop_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the seed alone, since draws have no other state."""
        return {"version": 1, "seed": self._seed_in_force()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the seed of the run that is resumed, unless one was given to this callback."""
        self._drawn_seed = int(state_dict["seed"])

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the module and its methods, which Lightning hangs onto callbacks."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
        return kept | {"_model": None}
