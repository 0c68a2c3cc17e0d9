"""ImageNet in class folders, with the augmentation of the recipes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.transforms import v2

from experiments.data.folder import FolderDataModule
from experiments.data.phases import Phase, PhasedDataModule
from experiments.data.splits import Transform

SYNSETS = "LOC_synset_mapping.txt"


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


@dataclass(kw_only=True, eq=False, repr=False)
class ImageNetDataModule(FolderDataModule):
    """ImageNet with the recipe's augmentation: random resized crop, flip, color jitter 0.4 and PCA lighting 0.1.

    Evaluation resizes the shorter side and crops the center.

    Args:
        root: The folder that holds `train` and `val`.
        image_size: Side of the square that the model is trained on, in pixels.
        min_scale: Smallest share in (0,1] of an image's area that the random crop takes.
        jitter: Strength of the brightness, contrast and saturation jitter; 0: none.
        lighting: Strength of the PCA lighting; 0: none.
        eval_size: Side of the square that the model is scored on; None: `image_size`.
        eval_resize: Shorter side that the image is resized to for that; None: 256/224 of `eval_size`.
    """

    title: ClassVar = "ImageNet"
    image_size: int = 224
    batch_size: int = 256
    min_scale: float = 0.08
    jitter: float = 0.4
    lighting: float = 0.1
    eval_size: int | None = None
    eval_resize: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.check("min_scale", 0 < self.min_scale <= 1, "in (0, 1]")
        self.eval_size = self.eval_size or self.image_size
        self.eval_resize = self.eval_resize or round(self.eval_size * 256 / 224)
        self.check("eval_resize", self.eval_resize >= self.eval_size, f"at least data.eval_size={self.eval_size}")

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in words, where the folders are the official WordNet ids; else the folders' names.

        From `LOC_synset_mapping.txt` beside `train`, as Kaggle ships it, or, for all 1000 classes, from torchvision.
        """
        folders = self._train_part.classes
        if (self.root / SYNSETS).is_file():
            lines = (self.root / SYNSETS).read_text(encoding="utf-8", errors="replace").splitlines()
            words = dict(line.split(" ", 1) for line in lines if " " in line)
            return [words.get(folder, folder).split(",")[0].strip() for folder in folders]
        names: list[str] = ResNet50_Weights.DEFAULT.meta["categories"]
        # Both are in the order of the ids.
        official = len(folders) == len(names) and folders[0] == "n01440764" and folders[-1] == "n15075141"
        return list(names) if official else folders

    @property
    def num_classes(self) -> int:
        """Number of folders below `train`."""
        return len(self._train_part.classes)

    def train_transform(self) -> Transform:
        """Random resized crop, flip and color noise."""
        color: list[nn.Module] = [v2.ColorJitter(*[self.jitter] * 3)] if self.jitter else []
        color += [Lighting(self.lighting)] if self.lighting else []
        crop = v2.RandomResizedCrop(self.image_size, scale=(self.min_scale, 1.0))
        return self.pipeline([crop, v2.RandomHorizontalFlip()], color)

    def eval_transform(self) -> Transform:
        """Resize the shorter side, crop the center."""
        return self.pipeline([v2.Resize(self.eval_resize), v2.CenterCrop(self.eval_size)])

    def _remedy(self) -> str:
        root = self.root.absolute()
        return (
            "ImageNet needs an account at https://image-net.org/download-images; extract the ILSVRC2012 archives to "
            f"{root}/train/<wnid>/*.JPEG and {root}/val/<wnid>/*.JPEG (the validation images sorted into class folders); "
            "python -m experiments.resize_images makes the copies of data=imagenet_phases."
        )


def build_imagenet_phases(
    *, root: str | Path, phases: Mapping[str, Mapping[str, Any]], **common: Any
) -> PhasedDataModule:
    """Build ImageNet in phases.

    Args:
        root: The folder of the data set, for phases without their own.
        phases: By name, in their order: `until`, and settings of `ImageNetDataModule` for that phase.
        common: Settings of `ImageNetDataModule` for all phases that do not have their own.

    Raises:
        ValueError: If a phase has no `until`, or as `PhasedDataModule` does.
    """
    built = []
    for name, phase in phases.items():
        if "until" not in phase:
            raise ValueError(f"data.phases.{name} needs `until`, the first epoch after it; it has {sorted(phase)}")
        settings = {"root": root, **common, **phase}
        built.append(Phase(until=settings.pop("until"), data=ImageNetDataModule(**settings)))
    return PhasedDataModule(built)
