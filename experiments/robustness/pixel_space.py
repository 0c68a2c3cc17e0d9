"""Between normalized images and pixels, and a model made ready to be attacked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class PixelSpace:
    """The normalization of a data set, in both directions.

    Args:
        mean: Mean of each channel, in [0,1] units.
        std: Standard deviation of each channel, in [0,1] units.

    Raises:
        ValueError: If they do not fit each other.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(f"mean and std need one value a channel, std > 0; got {self.mean} and {self.std}")

    def to_pixels(self, images: Tensor) -> Tensor:
        """Normalized images (B,C,H,W) to pixels in [0,1]; what rounding puts outside is clipped.

        Raises:
            ValueError: If the images have another number of channels.
        """
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(
                f"images must be (B,{len(self.mean)},H,W), as mean has {len(self.mean)} values; got {tuple(images.shape)}"
            )
        return (images * self._column(self.std, images) + self._column(self.mean, images)).clamp(0, 1)

    def to_images(self, pixels: Tensor) -> Tensor:
        """Pixels (B,C,H,W) in [0,1] to normalized images."""
        return (pixels - self._column(self.mean, pixels)) / self._column(self.std, pixels)

    @staticmethod
    def _column(values: Sequence[float], like: Tensor) -> Tensor:
        return like.new_tensor(values).view(-1, 1, 1)


class PixelModel(nn.Module):
    """A model of normalized images as a model of pixels in [0,1].

    Args:
        model: Maps normalized images (B,C,H,W) to logits (B,K).
        space: The normalization.
    """

    def __init__(self, model: nn.Module, space: PixelSpace) -> None:
        super().__init__()
        self.model = model
        self.space = space

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (B,C,H,W) to logits (B,K)."""
        return self.model(self.space.to_images(pixels))


@contextmanager
def under_attack(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, parameters frozen, gradients on; everything is as before afterwards, whatever happens.

    Also leaves inference mode, which Lightning tests in and which records no gradients.
    """
    training = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module, _ in training:
            module.training = False
        with torch.inference_mode(False), torch.enable_grad():
            # Frozen: an attack that calls backward(), as FAB of AutoAttack does, leaves nothing in their .grad.
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, flag in training:
            module.training = flag


def pixel_gradient(model: nn.Module, pixels: Tensor, targets: Tensor, space: PixelSpace) -> Tensor:
    """Gradient (B,C,H,W) of the cross-entropy at `pixels`; call it inside `under_attack`.

    Each image has the gradient of its own loss: the sum over the batch, not the mean, which could underflow.
    """
    leaf = pixels.detach().requires_grad_(True)
    loss = F.cross_entropy(model(space.to_images(leaf)), targets, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


def signs(gradient: Tensor) -> Tensor:
    """Signs in {-1,0,1}; NaN stays NaN, which `torch.sign` would turn into 0: an attack that seems to have failed."""
    return torch.where(gradient.isnan(), gradient, gradient.sign())
