"""White-box attacks of bounded size: FGSM and PGD.

Sizes are those of the pixels in [0,1]; the images going in and out are normalized as the model wants them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.robustness.pixel_space import PixelSpace, pixel_gradient, signs, under_attack


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Changes every pixel by at most `eps`, so that the model goes wrong.

    Args:
        eps: Largest change of a pixel, in (0,1].

    Raises:
        ValueError: If a value is outside its range.
    """

    eps: float

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 1:
            raise ValueError(
                f"eps must be in (0, 1], in units of pixels in [0, 1], got {self.eps}; did you mean n/255?"
            )

    def perturb(self, model: nn.Module, images: Tensor, targets: Tensor, *, space: PixelSpace, seed: int = 0) -> Tensor:
        """Attack a batch; the model is left as it was found, also by callers in inference mode.

        Args:
            model: Maps normalized images to logits (B,K); attacked in evaluation mode.
            images: Normalized images (B,C,H,W).
            targets: Their classes (B,).
            space: The normalization.
            seed: Fixes everything random.

        Returns:
            Normalized images (B,C,H,W) whose pixels are in [0,1] and at most `eps` from the given ones; NaN where the
            gradient was NaN.
        """
        with under_attack(model):
            # Copies made here are ordinary tensors even if the given ones are inference tensors.
            pixels = space.to_pixels(images.detach().clone())
            return space.to_images(self._attack(model, pixels, targets.clone(), space, seed)).detach()

    @abstractmethod
    def _attack(self, model: nn.Module, pixels: Tensor, targets: Tensor, space: PixelSpace, seed: int) -> Tensor:
        """Attack pixels (B,C,H,W) in [0,1]; called inside `under_attack`."""


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """The fast gradient sign method: one step of size `eps` (Goodfellow et al., ICLR 2015, section 4).

    Args:
        eps: Largest change of a pixel, in (0,1].
    """

    def _attack(self, model: nn.Module, pixels: Tensor, targets: Tensor, space: PixelSpace, seed: int) -> Tensor:
        return (pixels + self.eps * signs(pixel_gradient(model, pixels, targets, space))).clamp(0, 1)


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
        if not 0 < self.step <= 1:
            raise ValueError(
                f"step must be in (0, 1], in units of pixels in [0, 1], got {self.step}; did you mean n/255?"
            )
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def _attack(self, model: nn.Module, pixels: Tensor, targets: Tensor, space: PixelSpace, seed: int) -> Tensor:
        low, high = (pixels - self.eps).clamp(min=0), (pixels + self.eps).clamp(max=1)
        attacked = pixels
        if self.random_start:
            # Drawn on the CPU: the same start on every device.
            generator = torch.Generator().manual_seed(seed)
            noise = torch.rand(pixels.shape, generator=generator).to(pixels) * 2 - 1
            attacked = (pixels + self.eps * noise).clamp(0, 1)
        for _ in range(self.steps):
            attacked = attacked + self.step * signs(pixel_gradient(model, attacked, targets, space))
            # Not clamp(low, high): minimum and maximum are sure to keep NaN.
            attacked = torch.minimum(torch.maximum(attacked, low), high)
        return attacked
