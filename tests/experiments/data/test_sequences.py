"""Everything in the study that is indexed for samples is a sequence: it has an end, and counts from it too."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import ready, write_image
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

import experiments
from experiments.data import DigitsDataModule
from experiments.data.class_folders import ClassFolders
from experiments.data.splits import EpochPosition, ImageList, Split

LABELS = [0, 0, 1]


def scans() -> ImageList:
    return ImageList(torch.rand(3, 1, 8, 8), LABELS, torch.Tensor.clone)


def class_folders(root: Path) -> ClassFolders:
    for number, name in enumerate(("cat/0.jpg", "cat/1.jpg", "dog/0.jpg")):
        write_image(root / name, 50 * number, (8, 8))
    return ClassFolders(root)


SEQUENCES: dict[type, Callable[[Path], ImageList | Split]] = {
    ClassFolders: class_folders,
    ImageList: lambda root: scans(),
    Split: lambda root: Split(scans(), None, lambda image: image, seed=0),
}


def test_there_are_no_others() -> None:
    for module in pkgutil.walk_packages(experiments.__path__, "experiments."):
        importlib.import_module(module.name)
    found = set(ImageList.__subclasses__())
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("experiments."):
            classes = [
                each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == module_name
            ]
            found |= {
                each for each in classes if "__getitem__" in vars(each) and not getattr(each, "_is_protocol", False)
            }
    assert found == set(SEQUENCES)


@pytest.mark.parametrize("kind", SEQUENCES, ids=lambda kind: kind.__name__)
def test_sequences(kind: type, tmp_path: Path) -> None:
    sequence = SEQUENCES[kind](tmp_path)
    assert len(sequence) == 3
    assert [label for _, label in sequence] == LABELS
    assert all(type(label) is int for _, label in sequence)
    assert [label for _, label in (sequence[-3], sequence[-2], sequence[-1])] == LABELS
    assert equal(sequence[-1][0], sequence[2][0])
    assert equal(sequence[np.int64(1)][0], sequence[1][0])
    assert equal(sequence[torch.tensor(1)][0], sequence[1][0])
    for outside in (3, -4, np.int64(3)):
        with pytest.raises(IndexError):
            sequence[outside]
    for wrong in (slice(0, 2), 1.0, "1", None):
        with pytest.raises(TypeError):
            sequence[wrong]  # type: ignore[index]


def equal(one: Image.Image | Tensor, other: Image.Image | Tensor) -> bool:
    return bool((np.asarray(one) == np.asarray(other)).all())


def test_a_split_counts_from_its_end_with_the_same_augmentation() -> None:
    split = ready(DigitsDataModule()).split("train")
    assert torch.equal(split[-1][0], split[len(split) - 1][0])
    assert sum(1 for _ in split) == len(split)


def test_an_empty_split_ends_at_once() -> None:
    split = Split(scans(), [], lambda image: image)
    assert list(split) == []
    for position in (0, EpochPosition(0), EpochPosition(5)):
        with pytest.raises(IndexError):
            split[position]


def test_later_epochs_are_asked_for_by_their_positions_alone() -> None:
    split = Split(scans(), [2, 0], lambda image: image, seed=0)
    assert torch.equal(split[EpochPosition(4)][0], split[0][0])
    with pytest.raises(IndexError):
        split[4]


def test_torch_s_own_samplers_go_over_a_split_once() -> None:
    split = ready(DigitsDataModule(per_class=2)).split("train")
    assert sum(len(labels) for _, labels in DataLoader(split, batch_size=7, shuffle=True)) == len(split) == 20
