"""Data sets of the study, each a LightningDataModule."""

from experiments.data.base import ImageDataModule
from experiments.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from experiments.data.digits import DigitsDataModule
from experiments.data.errors import DatasetError, UnreadableImageError
from experiments.data.folder import FolderDataModule
from experiments.data.imagenet import ImageNetDataModule, build_imagenet_phases
from experiments.data.missing import MissingDataError
from experiments.data.phases import Phase, PhasedDataModule
from experiments.data.tiny_imagenet import TinyImageNetDataModule

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DatasetError",
    "DigitsDataModule",
    "FolderDataModule",
    "ImageDataModule",
    "ImageNetDataModule",
    "MissingDataError",
    "Phase",
    "PhasedDataModule",
    "TinyImageNetDataModule",
    "UnreadableImageError",
    "build_imagenet_phases",
]
