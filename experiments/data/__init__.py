"""Data sets of the study, each a LightningDataModule, and reading images from files."""

from experiments.data.base import ImageDataModule, Sources
from experiments.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from experiments.data.class_folders import IMAGE_SUFFIXES, list_images
from experiments.data.corruptions import PUBLISHED, SEVERITIES, CorruptedImages
from experiments.data.digits import DigitsDataModule
from experiments.data.errors import DatasetError, MissingDataError, UnreadableImageError
from experiments.data.folder import FolderDataModule
from experiments.data.image_reading import read_image
from experiments.data.imagenet import ImageNetDataModule, build_imagenet_phases
from experiments.data.phases import Phase, PhasedDataModule
from experiments.data.splits import EpochPosition
from experiments.data.tiny_imagenet import TinyImageNetDataModule

__all__ = [
    "IMAGE_SUFFIXES", "PUBLISHED", "SEVERITIES", "CIFAR10DataModule", "CIFAR100DataModule", "CorruptedImages", "DatasetError",
    "DigitsDataModule", "EpochPosition", "FolderDataModule", "ImageDataModule", "ImageNetDataModule", "MissingDataError",
    "Phase", "PhasedDataModule", "Sources", "TinyImageNetDataModule", "UnreadableImageError", "build_imagenet_phases",
    "list_images", "read_image",
]  # fmt: skip
