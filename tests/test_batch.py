"""Finding and replacing images and targets in batches of every kind."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from lightning_puzzlemix.batch import find_keys, find_samples, read, replaced

IMAGES = torch.zeros(4, 3, 8, 8)
CLASSES = torch.arange(4)
PROBABILITIES = torch.full((4, 5), 0.2)
Pair = namedtuple("Pair", "picture verdict")


@dataclass
class Sample:
    path: list
    pixels: torch.Tensor
    label: torch.Tensor


@dataclass(frozen=True)
class Frozen:
    x: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize(
    ("batch", "images", "targets"),
    [
        ([IMAGES, CLASSES], 0, 1),
        ((CLASSES, IMAGES), 1, 0),
        ((IMAGES, PROBABILITIES), 0, 1),
        ((IMAGES, ["a", "b", "c", "d"], CLASSES, torch.ones(4, dtype=torch.long)), 0, 2),
        ((IMAGES, torch.ones(4), CLASSES), 0, 2),
        ((IMAGES, torch.ones(4, 2, dtype=torch.long), CLASSES), 0, 2),
        (Pair(IMAGES, CLASSES), 0, 1),
        ({"image": IMAGES, "label": CLASSES, "id": CLASSES}, "image", "label"),
        ({"Pixel_Values": IMAGES, "labels": CLASSES, "mask": IMAGES}, "Pixel_Values", "labels"),
        ({"photo": IMAGES, "diagnosis": CLASSES}, "photo", "diagnosis"),
        (Sample([], IMAGES, CLASSES), "pixels", "label"),
        (Frozen(IMAGES, CLASSES), "x", "y"),
    ],
)
def test_finds_images_and_targets(batch: Any, images: Any, targets: Any) -> None:
    keys = find_keys(batch)
    assert (keys.images, keys.targets) == (images, targets)
    assert read(batch, keys.images) is IMAGES


def test_named_keys_win_over_guesses() -> None:
    second = IMAGES + 1
    batch = {"image": IMAGES, "other": second, "label": CLASSES, "verdict": CLASSES}
    assert find_keys(batch, "other", "verdict").images == "other"
    assert find_keys(batch, "other", "verdict").targets == "verdict"
    assert find_keys((CLASSES, IMAGES, second), -1, 0).images == 2


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"left": IMAGES, "right": IMAGES, "label": CLASSES}, r"several images \['left', 'right'\].*image_key="),
        ({"image": IMAGES, "a": CLASSES, "b": CLASSES}, r"several targets \['a', 'b'\].*target_key="),
        ({"image": IMAGES, "img": IMAGES, "label": CLASSES}, r"several images \['image', 'img'\]"),
        ([CLASSES, CLASSES], r"found no images.*image_key="),
        ([IMAGES, ["cat"] * 4], r"found no targets.*0: float32 \(4, 3, 8, 8\).*target_key="),
        ([IMAGES, CLASSES[:3]], r"found no targets"),
        ((), "found no images"),
    ],
)
def test_says_what_it_saw_when_unsure(batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_keys(batch)


def test_refuses_unknown_keys_and_containers() -> None:
    with pytest.raises(ValueError, match=r"image_key='photo' is not in the batch"):
        find_keys({"image": IMAGES, "label": CLASSES}, image_key="photo")
    with pytest.raises(ValueError, match=r"target_key=5 is not in the batch"):
        find_keys([IMAGES, CLASSES], target_key=5)
    with pytest.raises(TypeError, match=r"image_key='name' must name a tensor"):
        find_keys({"name": "cat", "label": CLASSES}, image_key="name")
    with pytest.raises(TypeError, match=r"batch must be a list.*got Tensor"):
        find_keys(IMAGES)


@pytest.mark.parametrize(
    ("batch", "key"),
    [
        ([IMAGES, CLASSES], 1),
        ((IMAGES, CLASSES), 1),
        (Pair(IMAGES, CLASSES), 1),
        ({"image": IMAGES, "label": CLASSES}, "label"),
        (OrderedDict(image=IMAGES, label=CLASSES), "label"),
        (UserDict(image=IMAGES, label=CLASSES), "label"),
        (Sample(["p"], IMAGES, CLASSES), "label"),
        (Frozen(IMAGES, CLASSES), "y"),
    ],
)
def test_replaces_in_a_copy_of_the_same_type(batch: Any, key: Any) -> None:
    changed = replaced(batch, {key: PROBABILITIES})
    assert type(changed) is type(batch)
    assert read(changed, key) is PROBABILITIES
    assert read(batch, key) is CLASSES
    assert read(changed, find_keys(batch).images) is IMAGES


PAIR = (IMAGES, CLASSES)


@pytest.mark.parametrize(
    ("batch", "paths"),
    [
        (PAIR, [((0,), (1,))]),
        ({"labelled": PAIR, "unlabelled": (IMAGES, IMAGES)}, [(("labelled", 0), ("labelled", 1))]),
        ([PAIR, {"image": IMAGES, "label": CLASSES}], [((0, 0), (0, 1)), ((1, "image"), (1, "label"))]),
        ({"a": {"b": [Sample([], IMAGES, CLASSES)]}}, [(("a", "b", 0, "pixels"), ("a", "b", 0, "label"))]),
        ({"image": IMAGES, "label": CLASSES, "extra": PAIR}, [(("image",), ("label",))]),
    ],
)
def test_finds_pairs_in_nested_batches(batch: Any, paths: Any) -> None:
    assert [(found.images, found.targets) for found in find_samples(batch)] == paths


def test_paths_name_what_lies_apart() -> None:
    batch = [IMAGES, {"label": CLASSES, "other": CLASSES}]
    with pytest.raises(ValueError, match="found no targets"):
        find_samples(batch)
    (found,) = find_samples(batch, 0, "1.label")
    assert (found.images, found.targets) == ((0,), (1, "label"))
    assert find_samples({"a.b": IMAGES, "y": CLASSES})[0].images == ("a.b",)
    with pytest.raises(ValueError, match=r"image_key='0.x': 'x' is not one of \[\]"):
        find_samples(batch, "0.x", "1.label")
    with pytest.raises(ValueError, match="must both be given where one is a path"):
        find_samples(batch, None, "1.label")


def test_replaces_in_nested_batches_without_touching_them() -> None:
    inner = {"image": IMAGES, "label": CLASSES, "id": "kept"}
    batch = {"labelled": (inner, "kept"), "unlabelled": IMAGES}
    changed = replaced(batch, {("labelled", 0, "label"): PROBABILITIES, ("labelled", 0, "image"): IMAGES + 1})
    assert changed["labelled"][0]["label"] is PROBABILITIES
    assert changed["labelled"][0]["id"] == "kept"
    assert changed["labelled"][1] == "kept"
    assert changed["unlabelled"] is IMAGES
    assert inner["label"] is CLASSES
    assert batch["labelled"][0] is inner
