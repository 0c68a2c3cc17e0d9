"""Data sets of the study, each a LightningDataModule."""

from experiments.data.base import ImageDataModule
from experiments.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from experiments.data.digits import DigitsDataModule
from experiments.data.folder import FolderDataModule, ImageNetDataModule
from experiments.data.missing import MissingDataError
from experiments.data.tiny_imagenet import TinyImageNetDataModule

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "FolderDataModule",
    "ImageDataModule",
    "ImageNetDataModule",
    "MissingDataError",
    "TinyImageNetDataModule",
]
