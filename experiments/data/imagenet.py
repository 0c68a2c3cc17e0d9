"""ImageNet in class folders, with the augmentation of the recipes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.transforms import v2

from experiments.data.folder import FolderDataModule
from experiments.data.phases import Phase, PhasedDataModule
from experiments.data.splits import Transform

# Principal components of the pixels.
EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045])
EIGENVECTORS = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


def add_lighting(image: Tensor, scale: float) -> Tensor:
    """Add one random color to a float image (3,H,W), `scale` times as strong as ImageNet's own variation.

    The three coefficients of the principal components are normal (Krizhevsky et al. 2012, section 4.1).
    """
    return image + (EIGENVECTORS @ (torch.randn(3) * scale * EIGENVALUES))[:, None, None]


@dataclass(kw_only=True, eq=False, repr=False)
class ImageNetDataModule(FolderDataModule):
    """ImageNet with the recipe's augmentation: random resized crop, flip, color jitter 0.4 and PCA lighting 0.1.

    Evaluation resizes the shorter side and crops the center.
    """

    title: ClassVar = "ImageNet"
    remedy: ClassVar = (
        "ImageNet needs an account at https://image-net.org/download-images; extract the ILSVRC2012 archives to "
        "{root}/train/<wnid>/*.JPEG and {root}/val/<wnid>/*.JPEG (the validation images sorted into class folders); "
        "python -m experiments.resize_images makes the copies of data=imagenet_phases."
    )
    image_size: int = 224
    batch_size: int = 256
    min_scale: float = 0.08  # Smallest share in (0,1] of an image's area that the random crop takes.
    jitter: float = 0.4  # Strength of the brightness, contrast and saturation jitter; 0: none.
    lighting: float = 0.1  # Strength of the PCA lighting; 0: none.
    eval_size: int | None = None  # Side of the square that the model is scored on; None: `image_size`.
    eval_resize: int | None = None  # Shorter side that the image is resized to for that; None: 256/224 of `eval_size`.

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("min_scale", 0 < self.min_scale <= 1, "in (0, 1]")
        self.eval_size = self.eval_size or self.image_size
        self.eval_resize = self.eval_resize or round(self.eval_size * 256 / 224)
        self.check("eval_resize", self.eval_resize >= self.eval_size, f"at least data.eval_size={self.eval_size}")

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in words for the 1000 official folders, else the folders' names."""
        folders, names = self._train_part.classes, ResNet50_Weights.DEFAULT.meta["categories"]
        # Both are in the order of the WordNet ids.
        official = len(folders) == len(names) and folders[0] == "n01440764" and folders[-1] == "n15075141"
        return list(names) if official else folders

    def train_transform(self) -> Transform:
        """Random resized crop, flip and color noise."""
        color: list[nn.Module] = [v2.ColorJitter(*[self.jitter] * 3)] if self.jitter else []
        color += [v2.Lambda(partial(add_lighting, scale=self.lighting))] if self.lighting else []
        crop = v2.RandomResizedCrop(self.image_size, scale=(self.min_scale, 1.0))
        return self.train_pipeline([crop, v2.RandomHorizontalFlip()], color)

    def eval_transform(self) -> Transform:
        """Resize the shorter side, crop the center."""
        return self.pipeline([v2.Resize(self.eval_resize), v2.CenterCrop(self.eval_size)])


def build_imagenet_phases(
    *, root: str | Path, phases: Mapping[str, Mapping[str, Any]], **common: Any
) -> PhasedDataModule:
    """Build ImageNet in phases, by name: each has `until` and settings of its own; `root` and `common` are those of all."""
    settings = [{"until": 0, "root": root, **common, **phase} for phase in phases.values()]
    return PhasedDataModule([Phase(until=each.pop("until"), data=ImageNetDataModule(**each)) for each in settings])
