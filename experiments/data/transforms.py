"""Image transforms that several data sets share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

Transform = Callable[[Any], Tensor]


def pipeline(
    geometry: Sequence[nn.Module], *, mean: Sequence[float], std: Sequence[float], color: Sequence[nn.Module] = ()
) -> Transform:
    """Geometry on the image as read, conversion to float in [0,1], color on that, normalization."""
    return v2.Compose(
        [*geometry, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), *color, v2.Normalize(list(mean), list(std))]
    )


def check_padding(padding: int) -> int:
    """Return a crop padding that makes sense.

    Raises:
        ValueError: If it is negative.
    """
    if padding < 0:
        raise ValueError(f"data.crop_padding must be at least 0, got {padding}")
    return padding


class Lighting(nn.Module):
    """Color noise along the principal components of ImageNet's pixels (Krizhevsky et al. 2012, section 4.1).

    Args:
        scale: Standard deviation of the three random coefficients; 0.1 in the paper.
    """

    eigenvalues = torch.tensor([0.2175, 0.0188, 0.0045])
    eigenvectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, image: Tensor) -> Tensor:
        """Add one random color to a float image (3,H,W) in [0,1]; the result may leave [0,1] slightly."""
        coefficients = torch.randn(3) * self.scale * self.eigenvalues
        return image + (self.eigenvectors @ coefficients)[:, None, None]
