"""White-box attacks of bounded size: FGSM and PGD. Sizes are in pixels of [0,1]; images are normalized."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PixelModel(nn.Module):
    """A classifier of normalized images as a classifier of pixels in [0,1].

    Args:
        model: Maps normalized images (B,C,H,W) to logits (B,K). It is put in evaluation mode and frozen, so that an attack that
            calls `backward`, as FAB does, leaves no gradients in it.
        mean: Mean of each channel, in [0,1] units.
        std: Standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.eval()

    def to_pixels(self, images: Tensor) -> Tensor:
        """Undo the normalization; what rounding puts outside of [0,1] is clipped."""
        return (images * self.std + self.mean).clamp(0, 1)

    def to_images(self, pixels: Tensor) -> Tensor:
        """Normalize pixels."""
        return (pixels - self.mean) / self.std

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (B,C,H,W) to logits (B,K)."""
        return self.model(self.to_images(pixels))


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Changes every pixel by at most `eps`, in (0,1], so that the classification becomes wrong.

    Raises:
        ValueError: If a value is outside its range.
    """

    eps: float

    def __post_init__(self) -> None:
        for name in ("eps", "step"):
            size = getattr(self, name, self.eps)
            if not 0 < size <= 1:
                raise ValueError(
                    f"{name} must be in (0, 1], in units of pixels in [0, 1], got {size}; did you mean n/255?"
                )

    def perturb(self, model: PixelModel, images: Tensor, targets: Tensor, *, seed: int = 0) -> Tensor:
        """Attack normalized images (B,C,H,W) of classes (B,); `seed` fixes everything random.

        Returns:
            Normalized images (B,C,H,W) whose pixels are in [0,1] and at most `eps` from the given ones; NaN where the
            gradient was NaN.
        """
        return model.to_images(self._attack(model, model.to_pixels(images), targets, seed))

    @abstractmethod
    def _attack(self, model: PixelModel, pixels: Tensor, targets: Tensor, seed: int) -> Tensor:
        """Attack pixels (B,C,H,W) in [0,1]."""


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """The fast gradient sign method: one step of size `eps` (Goodfellow et al., ICLR 2015, section 4)."""

    def _attack(self, model: PixelModel, pixels: Tensor, targets: Tensor, seed: int) -> Tensor:
        return (pixels + self.eps * _gradient_sign(model, pixels, targets)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent: signed steps, each followed by a clip to the ball (Madry et al., ICLR 2018, section 2.1).

    Args:
        eps: Largest change of a pixel, in (0,1].
        step: Size of a step, in (0,1].
        steps: Number of steps.
        random_start: Whether to start at a uniformly drawn point of the ball, clipped to [0,1], instead of the image.
    """

    step: float
    steps: int = 20
    random_start: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def _attack(self, model: PixelModel, pixels: Tensor, targets: Tensor, seed: int) -> Tensor:
        low, high = (pixels - self.eps).clamp(min=0), (pixels + self.eps).clamp(max=1)
        attacked = pixels
        if self.random_start:
            # Drawn on the CPU: the same start on every device.
            noise = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed)).to(pixels) * 2 - 1
            attacked = (pixels + self.eps * noise).clamp(0, 1)
        for _ in range(self.steps):
            attacked = attacked + self.step * _gradient_sign(model, attacked, targets)
            # Not clamp(low, high): minimum and maximum are sure to keep NaN.
            attacked = torch.minimum(torch.maximum(attacked, low), high)
        return attacked


def _gradient_sign(model: PixelModel, pixels: Tensor, targets: Tensor) -> Tensor:
    """Signs in {-1,0,1} of the gradient of the cross-entropy, summed over the batch, as a mean could underflow."""
    pixels = pixels.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(pixels), targets, reduction="sum"), pixels)
    # torch.sign would turn NaN into 0, which would pass for an attack that failed.
    return torch.where(gradient.isnan(), gradient, gradient.sign())
