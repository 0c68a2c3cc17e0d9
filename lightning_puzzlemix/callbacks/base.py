"""MixCallback: when a batch is mixed, and how ``training_step`` gets it; the base of all mixing callbacks."""

from __future__ import annotations

import dataclasses
import os
import secrets
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from lightning_puzzlemix.callbacks.batch import SamplePaths, find_samples
from lightning_puzzlemix.callbacks.batch_entries import mixed_entries, needs_num_classes, unmixed_entries
from lightning_puzzlemix.callbacks.batch_swap import BatchSwap
from lightning_puzzlemix.callbacks.containers import Keys, Path, check_keys, read
from lightning_puzzlemix.callbacks.fsdp import forward_module
from lightning_puzzlemix.callbacks.lightning_compat import LightningCallback
from lightning_puzzlemix.callbacks.lightning_private import is_logging_step
from lightning_puzzlemix.callbacks.method_patch import MethodPatch
from lightning_puzzlemix.callbacks.metric_adapter import MetricAdapter
from lightning_puzzlemix.callbacks.schedules import active_callback, check_schedules, is_active
from lightning_puzzlemix.mixers import Mixer, PhaseTimer, apply_mix
from lightning_puzzlemix.monitoring import MixImageLogger, mix_metrics
from lightning_puzzlemix.results import MixedBatch
from lightning_puzzlemix.saliency import PerModel, count_classes
from lightning_puzzlemix.sampling import MixDraw, draw_decision
from lightning_puzzlemix.validation import check_epochs, check_log_images_every, check_probability

LOG_IMAGES_EVERY_N_STEPS = 1000
_TARGETS = ("soft", "pair")


class MixCallback(LightningCallback):
    """Mix training batches before ``training_step`` gets them; the base of all mixing callbacks.

    The loss of the module must accept (B, classes) soft targets, as ``torch.nn.functional.cross_entropy`` does; else use
    ``targets="pair"``. The targets of every training batch have that form, also of one that is not mixed. Classification
    metrics of torchmetrics on the module get each sample's dominant class in their place. Batches may be lists, tuples,
    namedtuples, dicts or dataclasses, also nested as CombinedLoader returns them. Validation, test and prediction batches are
    not changed.

    Args:
        mixer: Mixes a batch.
        prob: Chance in [0, 1] that a batch is mixed; the same decision on every rank.
        start_epoch: First epoch (from 0) in which batches are mixed, >= 0.
        stop_epoch: First later epoch in which they are not mixed; ``None``: never.
        targets: Form of the targets in ``training_step``: ``"soft"``, (B, classes) floats, or ``"pair"``,
            :class:`PairTargets` (first, second, ratio) for losses that need classes (see :func:`pair_loss`).
        seed: Seed of all draws; each also depends on rank, epoch and batch index, so a resumed run draws what the uninterrupted
            one would have. ``None``: that of ``seed_everything``, else a random one, which checkpoints keep.
        image_key: The images in a batch: name, position, or a path such as ``"labeled.0"``; ``None`` finds them. A list names
            several views of the same images, and floating point maps (B, ..., H, W) on their pixels such as one-hot masks or
            depth, of any size; all are mixed alike: saliency is computed for the first, which decides how.
        target_key: The targets in a batch; ``None`` finds them. A list names several forms of the same targets, which are
            mixed alike: saliency is computed for the first.
        log_images_every_n_steps: Optimizer steps between two images of a mix for W&B, TensorBoard or CSV loggers, >= 1;
            ``None``: no images.

    Attributes:
        last: The :class:`MixedBatch` of the last mixed batch, detached; ``None`` before the first. A batch is mixed after all
            ``on_train_batch_start`` hooks, before ``training_step``. It holds the images before and after mixing and their
            saliency, (2 C + 1) H W numbers an image, until the next batch is mixed; set it to ``None`` to free them earlier.
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
        # Sets of images in the running batch that were mixed.
        self._mixed_sets = 0
        self._drawn_seed: int | None = None
        self._hook: MethodPatch | None = None
        self._swap = BatchSwap(type(self).__name__)
        self._metrics = MetricAdapter(type(self).__name__)
        self._timer = PhaseTimer()
        self._images = MixImageLogger(self.name, log_images_every_n_steps)
        self._model: nn.Module | None = None
        self._classes_of: PerModel[int] = PerModel()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of "saliency" and "mixing" in the running (or last) epoch."""
        return {"saliency": 0.0, "mixing": 0.0} | self._timer.totals()

    def draw(self, images: Tensor, *, rank: int = 0, epoch: int = 0, batch_idx: int = 0, part: int = 0) -> MixDraw:
        """Draw the random choices for one batch; override this to fix any of them.

        Args:
            images: (B, C, H, W) images of the batch.
            rank: Global rank of this process.
            epoch: Current epoch.
            batch_idx: Index of the batch in it.
            part: Index of the images, if the batch holds several sets of images and targets.
        """
        key = (self._current_seed(), rank, epoch, batch_idx)
        return self.mixer.draw(images, key=(*key, part) if part else key)

    def apply_mix(self, values: Tensor) -> Tensor:
        """Mix values on the pixels of the running batch as its images were mixed (see :func:`~lightning_puzzlemix.apply_mix`).

        Args:
            values: (B, ..., H, W) floating point.

        Returns:
            A new tensor; the values themselves where this batch is not mixed.

        Raises:
            ValueError: If the batch holds several sets of images: apply the mix to each by :func:`apply_mix`.
        """
        if self._mixed_sets > 1:
            raise ValueError(
                f"the batch holds {self._mixed_sets} sets of images, each mixed by its own draw, and values belong to one of "
                "them: name that one by image_key and target_key"
            )
        if not self._mixed_sets:
            return values
        assert self.last is not None
        return apply_mix(values, self.last)

    def _current_seed(self) -> int:
        if self.seed is not None:
            return self.seed
        if self._drawn_seed is None:
            global_seed = os.environ.get("PL_GLOBAL_SEED")
            self._drawn_seed = int(global_seed) if global_seed else secrets.randbits(31)
        return self._drawn_seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, and take rank 0's seed."""
        if stage != "fit":
            return
        if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
            raise ValueError(
                f"{type(self).__name__} cannot mix for training_step(self, dataloader_iter), which fetches its own batches: "
                "use training_step(self, batch, batch_idx)"
            )
        check_schedules(self._mixing_callbacks(trainer))
        self._share_seed(trainer)

    def _share_seed(self, trainer: pl.Trainer) -> None:
        """Take rank 0's seed: with different seeds, ranks would decide differently whether to mix a batch."""
        first = int(trainer.strategy.broadcast(self._current_seed()))
        if not trainer.strategy.reduce_boolean_decision(self.seed in (None, first), all=True):
            raise ValueError(
                f"seed must be the same on every rank, got {self.seed} on rank {trainer.global_rank} and {first} on rank 0: "
                "do not add the rank to it, each rank draws differently anyway"
            )
        self._drawn_seed = first

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the loggers that accept images, and forget the module of another fit."""
        self._metrics.reset()
        self._images.start(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the epoch's seconds."""
        self._timer.reset()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mix the batch after all hooks of this name; the module's own runs last.

        What other callbacks or the module do to the batch in this hook is mixed, too.
        """
        self._restore_module()
        self._mixed_sets = 0
        if active_callback(self._mixing_callbacks(trainer), trainer.current_epoch) is not self:
            return

        def run_then_mix(original: Any, *args: Any, **kwargs: Any) -> Any:
            assert self._hook is not None
            self._hook.remove()
            response = original(*args, **kwargs)
            # By -1 the module ends the epoch before this batch.
            if response != -1:
                self._mix_batch(trainer, pl_module, batch, batch_idx)
            return response

        self._hook = MethodPatch(pl_module, "on_train_batch_start", run_then_mix)

    def _mixing_callbacks(self, trainer: pl.Trainer) -> list[MixCallback]:
        """Return all mixing callbacks of the Trainer; only this one if another callback calls its hooks."""
        found = [each for each in trainer.callbacks if isinstance(each, MixCallback)]  # type: ignore[attr-defined]
        return found if self in found else [self]

    def _mix_batch(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Find the samples in the batch, mix them or only convert their targets, and swap the result into the step."""
        if self._model is None:
            self._model = forward_module(trainer.strategy.model, pl_module)
        samples = find_samples(batch, self.image_key, self.target_key)
        epoch, entries = trainer.current_epoch, dict[Path, Any]()
        mixes = is_active(self, epoch) and draw_decision(self.prob, (self._current_seed(), epoch, batch_idx))
        if mixes:
            # Before the saliency pass, whose activations need the memory.
            self.last = None
            self._images.forget()
        for part, where in enumerate(samples):
            if mixes:
                key = {"rank": trainer.global_rank, "epoch": epoch, "batch_idx": batch_idx}
                # The first part passes none, so that overrides of draw() work without this argument.
                mixed = self._mix(trainer, pl_module, batch, where, key | ({"part": part} if part else {}))
                entries |= mixed_entries(self.mixer, batch, where, mixed, self.targets)
                self.last = dataclasses.replace(mixed, clean=None)
                self._images.offer(trainer, self.last, read(batch, where.targets[0]))
            else:
                num_classes = self._count_classes(trainer, batch, where)
                entries |= unmixed_entries(self.mixer, batch, where, self.targets, num_classes)
        self._mixed_sets = len(samples) if mixes else 0
        self._swap.install(pl_module, batch, entries)
        targets = [path for where in samples for path in where.targets]
        self._metrics.install(pl_module, [entries[path] for path in targets], [read(batch, path) for path in targets])
        if mixes:
            self._log_metrics(trainer, pl_module)

    def _mix(
        self, trainer: Any, pl_module: Any, batch: Any, where: SamplePaths, key: dict[str, int], /, **options: Any
    ) -> MixedBatch:
        """Mix one set of images and targets in the batch by the draw for ``key``; ``options`` are those of the mixer."""
        images, targets = read(batch, where.images[0]), read(batch, where.targets[0])
        draw, context = self.draw(images, **key), trainer.precision_plugin.forward_context
        assert self._model is not None
        return self.mixer(self._model, images, targets, draw, forward_context=context, timer=self._timer, **options)

    def _count_classes(self, trainer: pl.Trainer, batch: Any, where: SamplePaths) -> int | None:
        """Return the number of classes if the targets of an unmixed batch are converted by it."""
        num_classes: int | None = getattr(self.mixer, "num_classes", None)
        if num_classes is not None or not needs_num_classes(batch, where, self.targets):
            return num_classes
        images, targets = read(batch, where.images[0]), read(batch, where.targets[0])
        assert self._model is not None
        context = trainer.precision_plugin.forward_context
        return count_classes(self._model, images, targets, self._classes_of, context)

    def _log_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the ratio of every mixed batch, and all other metrics in the steps that Lightning logs."""
        mixed = self.last
        assert mixed is not None
        metrics = {"ratio": mixed.ratio.mean()}
        if is_logging_step(trainer):
            if trainer.loggers:
                metrics |= mix_metrics(mixed)
            for phase, seconds in self._timer.latest().items():
                # Filled on the device: Lightning would copy a number there, and wait for it.
                value = torch.full((), seconds, dtype=torch.float32, device=mixed.images.device)
                metrics[f"{phase}_seconds"] = value
        named = {f"{self.name}/{metric}": value for metric, value in metrics.items()}
        pl_module.log_dict(named, on_step=True, on_epoch=False, batch_size=len(mixed.ratio))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the module: on_train_batch_end does not run for a skipped batch."""
        self._restore_module()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Restore the module."""
        self._restore_module()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log an image of the last mix, and restore the module."""
        self._images.finish(trainer)
        self._restore_module()
        self._model = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the module: after an exception no other hook runs."""
        self._images.stop()
        self._restore_module()
        self._model = None

    def _restore_module(self) -> None:
        """Remove everything that was installed for a batch."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None
        self._swap.remove()
        self._metrics.remove()

    @property
    def state_key(self) -> str:
        """Distinguish, in checkpoints, callbacks of one class that mix in different epochs."""
        if self.start_epoch == 0 and self.stop_epoch is None:
            return super().state_key
        return super().state_key + str({"start_epoch": self.start_epoch, "stop_epoch": self.stop_epoch})

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: the seed, since draws have no other state."""
        return {"version": 1, "seed": self._current_seed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seed of the resumed run, unless this callback was given one."""
        self._drawn_seed = int(state_dict["seed"])

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the module and its methods, which Lightning sets on callbacks."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
        return kept | {"_model": None}
