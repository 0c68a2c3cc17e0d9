"""RandomMixCallback: another mixing method in each batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor

from lightning_puzzlemix.callbacks.base import MixCallback
from lightning_puzzlemix.callbacks.schedules import is_active
from lightning_puzzlemix.sampling import MixDraw, draw_decision, random_generator

# Keeps the choice of a method independent of everything else drawn from the same seed.
_CHOICE_STREAM = 0x6D69780B


class RandomMixCallback(MixCallback):
    """Mix every training batch by one of several callbacks, drawn anew for each batch.

    All ranks draw the same one, and a resumed run the one that the uninterrupted run would have. The callbacks belong to this
    one alone, not into the Trainer's list. Each logs its metrics and images under its own name.

    Examples:
        >>> callback = RandomMixCallback([PuzzleMixCallback(), CutMixCallback()], weights=[2, 1])  # doctest: +SKIP
        >>> trainer = pl.Trainer(callbacks=[callback])  # doctest: +SKIP

    Args:
        callbacks: The mixing callbacks, at least one, with the same ``targets``. ``start_epoch``, ``stop_epoch`` and ``prob``
            are those of this callback.
        weights: How often each is drawn, in proportion, >= 0; ``None``: all alike.
        prob: Chance in [0, 1] that a batch is mixed at all.
        start_epoch: First epoch in which batches are mixed.
        stop_epoch: First later epoch in which they are not mixed.
        seed: Seed of the choice, and of all callbacks that were given none.

    Attributes:
        callbacks: The mixing callbacks.
        chosen: The one that mixed the last mixed batch, whose result is in ``last``; ``None`` before the first.

    Raises:
        TypeError: If ``callbacks`` does not hold mixing callbacks.
        ValueError: If they or the weights do not go together.
    """

    name = "random_mix"

    def __init__(
        self,
        callbacks: Sequence[MixCallback],
        *,
        weights: Sequence[float] | None = None,
        prob: float = 1.0,
        start_epoch: int = 0,
        stop_epoch: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.callbacks = _check_callbacks(callbacks)
        self.weights = _check_weights(weights, len(self.callbacks))
        first = self.callbacks[0]
        super().__init__(
            first.mixer,
            prob=prob,
            start_epoch=start_epoch,
            stop_epoch=stop_epoch,
            targets=first.targets,
            seed=seed,
            # For the targets of a batch that is not mixed.
            image_key=first.image_key,
            target_key=first.target_key,
            log_images_every_n_steps=None,
        )
        for each in self.callbacks:
            each.seed = seed if each.seed is None else each.seed
        self.chosen: MixCallback | None = None
        # The one that mixes the running batch.
        self._running: MixCallback | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of "saliency" and "mixing" of all callbacks in the running (or last) epoch."""
        parts = [each.seconds for each in self.callbacks]
        return {phase: sum(part[phase] for part in parts) for phase in parts[0]}

    def choose(self, *, epoch: int = 0, batch_idx: int = 0) -> MixCallback:
        """Draw the callback for one batch; override this to choose otherwise, alike on every rank."""
        rng = random_generator((_CHOICE_STREAM, self._current_seed(), epoch, batch_idx))
        return self.callbacks[int(rng.choice(len(self.callbacks), p=self.weights))]

    def draw(self, images: Tensor, *, rank: int = 0, epoch: int = 0, batch_idx: int = 0, part: int = 0) -> MixDraw:
        """Draw the random choices for one batch, by the callback that mixes it."""
        chosen = self.choose(epoch=epoch, batch_idx=batch_idx)
        return chosen.draw(images, rank=rank, epoch=epoch, batch_idx=batch_idx, part=part)

    def apply_mix(self, values: Tensor) -> Tensor:
        """Mix values on the pixels of the running batch as its images were mixed."""
        return values if self._running is None else self._running.apply_mix(values)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set up all callbacks."""
        super().setup(trainer, pl_module, stage)
        self._delegate("setup", trainer, pl_module, stage)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start all callbacks."""
        super().on_train_start(trainer, pl_module)
        self._delegate("on_train_start", trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the epoch's seconds."""
        super().on_train_epoch_start(trainer, pl_module)
        self._delegate("on_train_epoch_start", trainer, pl_module)

    def _mix_batch(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Let one callback mix the batch, or convert its targets."""
        epoch = trainer.current_epoch
        self._running = None
        if not is_active(self, epoch) or not draw_decision(self.prob, (self._current_seed(), epoch, batch_idx)):
            super()._mix_batch(trainer, pl_module, batch, batch_idx)
            return
        # What the others keep of their last batches, the saliency pass needs the memory of.
        self.last = None
        for each in self.callbacks:
            each.last = None
            each._images.forget()
        self.chosen = self._running = self.choose(epoch=epoch, batch_idx=batch_idx)
        self.chosen._mix_batch(trainer, pl_module, batch, batch_idx)
        self.last = self.chosen.last

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Let the callback that mixed the batch add to its loss."""
        if self._running is not None:
            self._running.on_before_backward(trainer, pl_module, loss)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """End the batch of the callback that mixed it."""
        if self._running is not None:
            self._running.on_train_batch_end(*args, **kwargs)
        super().on_train_batch_end(*args, **kwargs)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the epoch of all callbacks."""
        super().on_train_epoch_end(trainer, pl_module)
        self._delegate("on_train_epoch_end", trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the fit of all callbacks."""
        super().on_train_end(trainer, pl_module)
        self._delegate("on_train_end", trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the module."""
        super().on_exception(trainer, pl_module, exception)
        self._delegate("on_exception", trainer, pl_module, exception)

    def _delegate(self, hook: str, *arguments: Any) -> None:
        for each in self.callbacks:
            getattr(each, hook)(*arguments)

    def _restore_module(self) -> None:
        super()._restore_module()
        self._running = None
        for each in self.callbacks:
            each._restore_module()

    def state_dict(self) -> dict[str, Any]:
        """Return the seeds of this callback and of all others."""
        return super().state_dict() | {"callbacks": [each.state_dict() for each in self.callbacks]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seeds of the resumed run, unless they were given."""
        super().load_state_dict(state_dict)
        states = state_dict["callbacks"]
        if len(states) != len(self.callbacks):
            raise ValueError(
                f"the checkpoint is of a RandomMixCallback with {len(states)} callbacks, and this one has "
                f"{len(self.callbacks)}: resume with the same"
            )
        for each, state in zip(self.callbacks, states, strict=True):
            each.load_state_dict(state)


def _check_callbacks(callbacks: Any) -> list[MixCallback]:
    found = list(callbacks) if isinstance(callbacks, Sequence) else [callbacks]
    if not found or not all(isinstance(each, MixCallback) for each in found):
        raise TypeError(f"callbacks must be a list of at least one mixing callback, got {callbacks!r}")
    for each in found:
        name = type(each).__name__
        if isinstance(each, RandomMixCallback) or found.count(each) > 1:
            raise ValueError(
                f"callbacks must hold each callback once and no RandomMixCallback, got {name}: use weights"
            )
        for setting, default in (("prob", 1.0), ("start_epoch", 0), ("stop_epoch", None)):
            if getattr(each, setting) != default:
                raise ValueError(
                    f"{name}({setting}={getattr(each, setting)!r}) cannot be one of several callbacks, of which one is drawn "
                    f"for each batch: pass {setting} to RandomMixCallback, and weights for how often each is drawn"
                )
    if len({each.targets for each in found}) > 1:
        forms = ", ".join(f"{type(each).__name__}(targets={each.targets!r})" for each in found)
        raise ValueError(f"callbacks must return targets of one form, got {forms}: use the same for all")
    return found


def _check_weights(weights: Any, count: int) -> list[float]:
    if weights is None:
        return [1 / count] * count
    values = np.asarray(weights, np.float64)
    if values.shape != (count,) or not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise ValueError(
            f"weights must be {count} numbers of at least 0, not all 0, one for each callback, got {weights!r}"
        )
    return (values / values.sum()).tolist()
