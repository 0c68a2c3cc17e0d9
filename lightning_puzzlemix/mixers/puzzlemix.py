"""PuzzleMix: one call that mixes a batch for a model; for plain PyTorch, Fabric and the callback alike."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.core import keep_samples, mix_checked
from lightning_puzzlemix.mixers.adversarial import add_noise, adversarial_noise
from lightning_puzzlemix.mixers.clean_loss import CleanGradients, is_sharded
from lightning_puzzlemix.mixers.timer import PhaseTimer
from lightning_puzzlemix.results import MixedBatch
from lightning_puzzlemix.saliency import (
    ForwardContext,
    PerModel,
    SaliencyCallable,
    SaliencyLoss,
    SaliencyPass,
    SaliencySource,
    count_classes,
)
from lightning_puzzlemix.sampling import MixDraw, draw_mix
from lightning_puzzlemix.solvers import DeferredChecks
from lightning_puzzlemix.targets import blend_targets, check_task_targets
from lightning_puzzlemix.validation import (
    check_image_batch,
    check_num_classes,
    check_probability,
    check_weight,
)


class PuzzleMix:
    """Mix batches for a model.

    Examples:
        >>> mixer = PuzzleMix(PuzzleMixConfig(mean=(0.5,), std=(0.5,)))  # doctest: +SKIP
        >>> mixed = mixer(model, images, targets)  # doctest: +SKIP
        >>> loss = torch.nn.functional.cross_entropy(model(mixed.images), mixed.targets)  # doctest: +SKIP

    Args:
        config: Hyperparameters of the mixing; by default those of :class:`PuzzleMixConfig`.
        clean_weight: Weight of the mean cross-entropy (or ``saliency_loss``) of the unmixed batch, in [0, 1e6] (``clean_lam``;
            times 2/num_classes where the loss is the CIFAR code's BCE on the softmax). Above 0 the saliency pass runs in
            training mode. Needs ``saliency="gradient"``.
        adversarial_prob: Chance in [0, 1], a batch and side, of adversarial noise (``adv_p``). Needs
            ``saliency="gradient"``.
        adversarial_eps: Amplitude of that noise in [0, 1] pixel units (``adv_eps`` / 255).
        saliency: Where saliency comes from. ``"gradient"``: the paper's, the loss's gradient at the images. ``"feature"``:
            its gradient at a feature map inside the network, cheaper and close to the paper's. ``"spectral"``: the
            spectral residual of the image, which costs next to nothing but is another method and ignores the model. Or a
            callable (module, images, targets) that returns (B, H, W) floats >= 0; it is called with gradients switched
            on and the model in its present mode, in the trainer's forward context.
        saliency_layer: Name of the submodule at whose output ``"feature"`` takes the gradient; ``None`` takes the first third
            of the network (:func:`lightning_puzzlemix.saliency.feature.find_default_layer`).
        saliency_loss: For models whose forward does not return logits: a callable (module, images, targets), or the name
            of a method of the model with the arguments (images, targets), that returns the batch's mean loss or (B,)
            losses to differentiate instead of cross-entropy. A further parameter named ``batch`` gets the whole batch, for
            models that need more than images.
        saliency_precision: ``"bf16-mixed"``, ``"16-mixed"`` or ``"32-true"`` for the saliency's forward pass alone
            (with ``clean_weight``, its gradients are those of this pass); ``None`` leaves it at that of the training step.
        sample_prob: Chance in [0, 1] that a sample of a batch is mixed; the others keep their image and target, and may be
            partners.
        num_classes: Number of classes, 1 to 1,000,000; 1 for one logit. ``None`` takes it from logits, from probabilities as
            targets, or from one forward pass. Needed where the model returns several outputs that could be the logits.

    Attributes:
        checks: Values of batches that were solved on a device (``solve_on``) are checked here without waiting for it: what is
            wrong with one is raised with a later batch, or by ``checks.finish()`` at the end of an epoch.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a value lies outside its range, or two do not go together.
    """

    def __init__(
        self,
        config: PuzzleMixConfig | None = None,
        *,
        clean_weight: float = 0.0,
        adversarial_prob: float = 0.0,
        adversarial_eps: float = 10 / 255,
        saliency: str | SaliencyCallable = "gradient",
        saliency_layer: str | None = None,
        saliency_loss: SaliencyLoss | str | None = None,
        saliency_precision: str | None = None,
        sample_prob: float = 1.0,
        num_classes: int | None = None,
    ) -> None:
        if config is not None and not isinstance(config, PuzzleMixConfig):
            raise TypeError(f"config must be a PuzzleMixConfig, got {config!r}")
        self.config = PuzzleMixConfig() if config is None else config
        self.clean_weight = check_weight("clean_weight", clean_weight)
        self.adversarial_prob = check_probability("adversarial_prob", adversarial_prob)
        self.adversarial_eps = check_probability("adversarial_eps", adversarial_eps)
        self.sample_prob = check_probability("sample_prob", sample_prob)
        self.num_classes = check_num_classes(num_classes)
        self.source = SaliencySource(saliency, saliency_layer, saliency_loss, saliency_precision, num_classes)
        self._refuse_without_gradient()
        self.checks = DeferredChecks()
        self._classes_of: PerModel[int] = PerModel()

    def _refuse_without_gradient(self) -> None:
        """Refuse what needs the gradients that only the paper's saliency computes."""
        if self.source.source == "gradient":
            return
        for name, value, needed in (
            ("clean_weight", self.clean_weight, "the gradients of all parameters"),
            ("adversarial_prob", self.adversarial_prob, "the gradient at the images"),
        ):
            if value:
                raise ValueError(
                    f"{name}={value} needs {needed}, which saliency={self.source.source!r} does not compute: use "
                    f"saliency='gradient', or {name}=0"
                )

    def draw(self, images: Tensor, *, key: tuple[int, ...] | None = None) -> MixDraw:
        """Draw the random choices for a batch (see :class:`Mixer`)."""
        check_image_batch(images, self.config.std)
        return draw_mix(
            images,
            self.config,
            key,
            adversarial_prob=self.adversarial_prob,
            adversarial_eps=self.adversarial_eps,
            sample_prob=self.sample_prob,
        )

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        targets: Tensor,
        draw: MixDraw | None = None,
        *,
        forward_context: ForwardContext = nullcontext,
        timer: PhaseTimer | None = None,
        batch: Any = None,
    ) -> MixedBatch:
        """Mix a batch by the model's own saliency; images, targets and model are left unchanged.

        Args:
            model: Maps (B, C, H, W) to (B, classes) logits, where the source of saliency needs them.
            images: (B, C, H, W) floating point, normalized with the config's mean and std.
            targets: (B,) class indices; (B, classes) floats, one label or several a row; for one logit (B,) or (B, 1), 0 and
                1 or floats in between. With ``saliency_loss`` floats may have any values.
            draw: The random choices; ``None`` draws them.
            forward_context: Makes the context of the saliency's forward pass, for example autocast.
            timer: Measures the phases "saliency" and "mixing".
            batch: The whole batch, for a ``saliency_loss`` that has a parameter of that name.

        Raises:
            TypeError: If an argument has the wrong type or dtype.
            ValueError: If shapes or values do not fit together.
        """
        if draw is None:
            draw = self.draw(images)
        else:
            check_image_batch(images, self.config.std)
        timer = PhaseTimer() if timer is None else timer
        with timer.phase("saliency", images.device):
            inputs = images if draw.noise is None else add_noise(images, draw.noise, self.config)
            found, clean = self._compute_saliency(model, inputs, targets, forward_context, batch)
            num_classes = self._count_classes(model, images, targets, found, forward_context)
        with timer.phase("mixing", images.device):
            noisy = images if draw.noise is None else self._add_adversarial_noise(images, draw, found)
            first = noisy if draw.adversarial_first else images
            second = noisy if draw.adversarial_second else images
            mix = mix_checked(images, found.saliency, draw, self.config, first, second, self.checks)
            mix = mix if draw.kept is None else keep_samples(mix, images, draw.kept)
            soft = blend_targets(
                targets, permutation=draw.permutation, ratio=mix.ratio, num_classes=num_classes
            )  # fmt: skip
        return MixedBatch(
            mix.images, soft, mix.ratio, mix.mask, found.saliency, draw, images.detach(), clean, mix.plan,
            mean=self.config.mean, std=self.config.std,
        )  # fmt: skip

    def _compute_saliency(
        self, model: nn.Module, images: Tensor, targets: Tensor, forward_context: ForwardContext, batch: Any
    ) -> tuple[SaliencyPass, CleanGradients | None]:
        """Run the source; with clean regularization in training mode, with the gradients of the parameters."""
        if not self.clean_weight:
            return self.source.compute(model, images, targets, forward_context=forward_context, batch=batch), None
        parameters = tuple(parameter for parameter in model.parameters() if parameter.requires_grad)
        if not parameters:
            raise ValueError(
                f"clean_weight={self.clean_weight} needs parameters to regularize, but the model has none that require a "
                "gradient: use clean_weight=0"
            )
        # Sharded parameters are gathered anew in each pass, and hooks that change a gradient (a mask, a limit) must see the
        # whole of it: then the loss itself is kept, and differentiated together with that of the mixed batch.
        keep_loss = is_sharded(model) or any(parameter._backward_hooks for parameter in parameters)
        found = self.source.compute(
            model,
            images,
            targets,
            training=True,
            parameters=() if keep_loss else parameters,
            keep_loss=keep_loss,
            forward_context=forward_context,
            batch=batch,
        )
        return found, CleanGradients(self.clean_weight, parameters, found.parameter_gradients, found.loss)

    def _count_classes(
        self, model: nn.Module, images: Tensor, targets: Tensor, found: SaliencyPass, forward_context: ForwardContext
    ) -> int:
        """Return the number of classes, and check the targets by it where the source has not."""
        if found.num_classes is not None:
            if self.num_classes not in (None, found.num_classes):
                raise ValueError(
                    f"num_classes={self.num_classes}, but the model returns {found.num_classes} logits: leave num_classes out, "
                    "or pass saliency_loss, a callable (module, images, targets), if what forward returns are not logits"
                )
            return found.num_classes
        num_classes = self.num_classes
        if num_classes is None:
            num_classes = count_classes(model, images, targets, self._classes_of, forward_context)
        bounded = self.source.asks_for_probabilities(num_classes)
        check_task_targets(targets, len(images), num_classes, bounded=bounded)
        return num_classes

    def _add_adversarial_noise(self, images: Tensor, draw: MixDraw, found: SaliencyPass) -> Tensor:
        if found.gradient is None or draw.noise is None:
            raise ValueError(
                f"draw.noise needs the gradient at the images, which saliency={self.source.source!r} does not compute: use "
                "saliency='gradient', or a draw without noise"
            )
        noise = adversarial_noise(
            images, draw.noise, found.gradient, self.config, eps=self.adversarial_eps, scale=draw.noise_scale
        )
        return add_noise(images, noise, self.config)
