"""Find and replace images and targets in batches of every kind."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from lightning_puzzlemix.callbacks.batch import SamplePaths, find_samples
from lightning_puzzlemix.callbacks.containers import read, replaced

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


@dataclass
class Output(OrderedDict):
    """A mapping and a dataclass at once, like the outputs of transformers."""

    x: torch.Tensor | None = None
    y: torch.Tensor | None = None

    def __post_init__(self) -> None:
        super().update(x=self.x, y=self.y)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        object.__setattr__(self, key, value)


@pytest.mark.parametrize(
    ("batch", "images", "targets"),
    [
        ([IMAGES, CLASSES], 0, 1),
        ((CLASSES, IMAGES), 1, 0),
        ((IMAGES, PROBABILITIES), 0, 1),
        ((IMAGES, ["a", "b", "c", "d"], CLASSES, torch.ones(4)), 0, 2),
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
    (found,) = find_samples(batch)
    assert (found.images, found.targets) == (((images,),), ((targets,),))
    assert read(batch, found.images[0]) is IMAGES


def test_named_keys_win_over_guesses() -> None:
    second = IMAGES + 1
    batch = {"image": IMAGES, "other": second, "label": CLASSES, "verdict": CLASSES}
    assert find_samples(batch, "other", "verdict") == [SamplePaths((("other",),), (("verdict",),))]
    assert find_samples((CLASSES, IMAGES, second), -1, 0) == [SamplePaths(((2,),), ((0,),))]


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
def test_ambiguous_batches_are_described(batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_samples(batch)


def test_refuses_unknown_keys_and_containers() -> None:
    with pytest.raises(ValueError, match=r"image_key='photo' is not in the batch"):
        find_samples({"image": IMAGES, "label": CLASSES}, image_key="photo")
    with pytest.raises(ValueError, match=r"target_key=5 is not in the batch"):
        find_samples([IMAGES, CLASSES], target_key=5)
    with pytest.raises(TypeError, match=r"image_key='name' must name a tensor"):
        find_samples({"name": "cat", "label": CLASSES}, image_key="name")
    with pytest.raises(TypeError, match=r"batch must be a list.*got Tensor"):
        find_samples(IMAGES)


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
        (Output(IMAGES, CLASSES), "y"),
    ],
)
def test_replaces_in_a_copy_of_the_same_type(batch: Any, key: Any) -> None:
    changed = replaced(batch, {(key,): PROBABILITIES})
    assert type(changed) is type(batch)
    assert read(changed, (key,)) is PROBABILITIES
    assert read(batch, (key,)) is CLASSES
    assert read(changed, find_samples(batch)[0].images[0]) is IMAGES


PAIR = (IMAGES, CLASSES)


@pytest.mark.parametrize(
    ("batch", "paths"),
    [
        (PAIR, [((0,), (1,))]),
        ({"labeled": PAIR, "unlabeled": (IMAGES, IMAGES)}, [(("labeled", 0), ("labeled", 1))]),
        ([PAIR, {"image": IMAGES, "label": CLASSES}], [((0, 0), (0, 1)), ((1, "image"), (1, "label"))]),
        ({"a": {"b": [Sample([], IMAGES, CLASSES)]}}, [(("a", "b", 0, "pixels"), ("a", "b", 0, "label"))]),
        ({"image": IMAGES, "label": CLASSES, "extra": PAIR}, [(("image",), ("label",))]),
    ],
)
def test_finds_pairs_in_nested_batches(batch: Any, paths: Any) -> None:
    assert [(*found.images, *found.targets) for found in find_samples(batch)] == paths


def test_paths_name_entries_of_different_containers() -> None:
    batch = [IMAGES, {"label": CLASSES, "other": CLASSES}]
    with pytest.raises(ValueError, match="found no targets"):
        find_samples(batch)
    (found,) = find_samples(batch, 0, "1.label")
    assert found == SamplePaths(((0,),), ((1, "label"),))
    assert find_samples({"a.b": IMAGES, "y": CLASSES})[0].images == (("a.b",),)
    with pytest.raises(ValueError, match=r"image_key='0.x': 'x' is not one of \[\]"):
        find_samples(batch, "0.x", "1.label")
    with pytest.raises(ValueError, match="must both be given if one of them is a path"):
        find_samples(batch, None, "1.label")


def test_replaces_in_nested_batches_without_changing_them() -> None:
    inner = {"image": IMAGES, "label": CLASSES, "id": "kept"}
    batch = {"labeled": (inner, "kept"), "unlabeled": IMAGES}
    changed = replaced(batch, {("labeled", 0, "label"): PROBABILITIES, ("labeled", 0, "image"): IMAGES + 1})
    assert changed["labeled"][0]["label"] is PROBABILITIES
    assert changed["labeled"][0]["id"] == "kept"
    assert changed["labeled"][1] == "kept"
    assert changed["unlabeled"] is IMAGES
    assert inner["label"] is CLASSES
    assert batch["labeled"][0] is inner


COLUMNS, ONE_HOT = torch.rand(4, 5), torch.eye(4, dtype=torch.long)
Named = namedtuple("Named", "image label index")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            (IMAGES, CLASSES, CLASSES),
            r"several targets \[1, 2\].*1: int64 \(4,\), 2: int64 \(4,\).*target_key=\[1, 2\]",
        ),
        (
            [IMAGES, COLUMNS, CLASSES],
            r"several targets \[1, 2\].*1: float32 \(4, 5\), 2: int64 \(4,\).*pass target_key=",
        ),
        ((IMAGES, CLASSES, PROBABILITIES), r"several targets \[1, 2\]"),
        ((IMAGES, CLASSES, ONE_HOT), r"several targets \[1, 2\].*2: int64 \(4, 4\)"),
        ((IMAGES, CLASSES, ONE_HOT.bool()), r"several targets \[1, 2\].*2: bool \(4, 4\)"),
        ((IMAGES, IMAGES, CLASSES), r"several images \[0, 1\].*pass image_key=.*image_key=\[0, 1\] if they are views"),
        ((IMAGES, (IMAGES * 255).byte(), CLASSES), r"several images \[0, 1\]"),
        ((IMAGES, CLASSES, [IMAGES, IMAGES]), r"several images \[0, '2.0'\].*image_key="),
        ({"image": IMAGES, "views": {"weak": IMAGES}, "label": CLASSES}, r"several images \['image', 'views.weak'\]"),
        ({"image": IMAGES, "image_aug": IMAGES, "label": CLASSES}, r"several images \['image', 'image_aug'\]"),
        ({"x": IMAGES, "x2": IMAGES, "y": CLASSES}, r"several images \['x', 'x2'\]"),
        (
            {"image": IMAGES, "label": CLASSES, "label_onehot": PROBABILITIES},
            r"several targets \['label', 'label_onehot'\]",
        ),
        ({"image": IMAGES, "label": CLASSES, "soft": PROBABILITIES}, r"several targets \['label', 'soft'\]"),
        ({"image": IMAGES, "label": CLASSES, "coarseLabel": CLASSES}, r"several targets \['label', 'coarseLabel'\]"),
        ({"image": IMAGES, "y": CLASSES, "vector": ONE_HOT}, r"several targets \['y', 'vector'\]"),
        ({"a": {"image": IMAGES, "y": CLASSES, "target": CLASSES}}, r"several targets \['y', 'target'\]"),
        ({"image": IMAGES, "patient_id": CLASSES, "label": ["a"] * 4}, r"found no targets.*'patient_id': int64 \(4,\)"),
        (
            (IMAGES, CLASSES[:, None]),
            r"1 is int64 \(4, 1\): a column of classes becomes \(B,\) classes with .squeeze\(1\)",
        ),
        ((IMAGES, ONE_HOT), r"1 is int64 \(4, 4\): one-hot or multi-hot rows become probabilities with .float\(\)"),
        ((IMAGES, ONE_HOT.bool()), r"1 is bool \(4, 4\).*with .float\(\)"),
        ((IMAGES, CLASSES > 1), r"1 is bool \(4,\): pass .long\(\) for two classes"),
        (
            (IMAGES, torch.rand(4)),
            r"1 is float32 \(4,\): for classes pass .long\(\); for one logit.*name them.*target_key=",
        ),
        ((IMAGES[:, 0], CLASSES), r"0 is float32 \(4, 8, 8\): add the channels, for example with .unsqueeze\(1\)"),
        ((IMAGES[:, None], CLASSES), r"0 is float32 \(4, 1, 3, 8, 8\): videos and volumes are not mixed"),
        (([IMAGES, IMAGES], CLASSES), r"found no images.*0: list, 1: int64"),
    ],
)
def test_ambiguous_batches_are_refused(batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_samples(batch)


@pytest.mark.parametrize(
    ("batch", "images", "targets"),
    [
        ((IMAGES, CLASSES, torch.rand(4)), 0, 1),
        ((IMAGES, CLASSES, ["a.png"] * 4, {"shape": torch.ones(4, 2)}), 0, 1),
        ((IMAGES, CLASSES, torch.zeros(4, 2, dtype=torch.long)), 0, 1),
        ((IMAGES, CLASSES, torch.zeros(4, 1, 8, 8, dtype=torch.long)), 0, 1),
        (Named(IMAGES, CLASSES, CLASSES), 0, 1),
        ({"image": IMAGES, "label": CLASSES, "scanner": CLASSES, "age": torch.rand(4, 1)}, "image", "label"),
        ({"image": IMAGES, "category_id": CLASSES}, "image", "category_id"),
    ],
)
def test_other_entries_are_ignored(batch: Any, images: Any, targets: Any) -> None:
    (found,) = find_samples(batch)
    assert found == SamplePaths(((images,),), ((targets,),))


def test_several_views_and_forms_are_named_in_lists() -> None:
    batch = {"image": IMAGES, "aug": IMAGES + 1, "label": CLASSES, "onehot": PROBABILITIES, "id": CLASSES}
    (found,) = find_samples({"inner": batch}, ["image", "aug"], ["label", "onehot"])
    assert found.images == (("inner", "image"), ("inner", "aug"))
    assert found.targets == (("inner", "label"), ("inner", "onehot"))
    (found,) = find_samples(([IMAGES, IMAGES], CLASSES), ["0.0", "0.-1"], [1])
    assert found == SamplePaths(((0, 0), (0, 1)), ((1,),))
    (found,) = find_samples((IMAGES, IMAGES, CLASSES), [0, 1])
    assert found == SamplePaths(((0,), (1,)), ((2,),))
    with pytest.raises(
        ValueError, match=r"image_key: 'label' must be 4 images \(B, C, H, W\) like 'image'.*got int64 \(4,\)"
    ):
        find_samples(batch, ["image", "label"], "label")
    with pytest.raises(ValueError, match=r"image_key='depth' is not in the batch"):
        find_samples(batch, ["image", "depth"], "label")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (CLASSES[:, None], r"target_key='label' must be \(B,\) integer classes.*int64 \(4, 1\).*squeeze\(1\)"),
        (ONE_HOT, r"target_key='label'.*int64 \(4, 4\).*\.float\(\)"),
        (CLASSES > 1, r"target_key='label'.*bool \(4,\).*\.long\(\)"),
        (["a"] * 4, r"target_key='label' must name a tensor of targets, got list"),
    ],
)
def test_named_entries_that_are_not_targets_get_advice(value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        find_samples({"image": IMAGES, "label": value}, target_key="label")


@pytest.mark.parametrize("shape", [(16, 16, 3), (28, 28, 1), (480, 640, 3), (9, 9, 4), (5, 7, 3)])
def test_images_that_are_not_channels_first_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must be channels-first \(B, C, H, W\).*\.permute\(0, 3, 1, 2\)"):
        find_samples((torch.zeros(4, *shape), CLASSES))


@pytest.mark.parametrize(
    "shape",
    [(3, 16, 3), (1, 28, 1), (3, 4, 4), (16, 4, 4), (2, 8, 3), (64, 3, 3), (12, 5000, 1), (10, 16, 16), (2, 1, 1)],
)
def test_tiny_images_and_unusual_channels_are_accepted(shape: tuple[int, ...]) -> None:
    assert find_samples((torch.zeros(4, *shape), CLASSES))[0].images == ((0,),)


@pytest.mark.parametrize(
    ("batch", "paths"),
    [
        ({"inputs": {"image": IMAGES}, "targets": {"label": CLASSES}}, ("inputs.image", "targets.label")),
        ([IMAGES, {"label": CLASSES, "id": CLASSES}], (0, "1.label")),
        ([[IMAGES, IMAGES], CLASSES], ("0.1", 1)),
        ([IMAGES, [CLASSES, CLASSES]], (0, "1.1")),
    ],
)
def test_images_and_targets_in_two_containers_are_listed_by_path(batch: Any, paths: tuple[Any, Any]) -> None:
    nested = [path for path in paths if isinstance(path, str)]
    with pytest.raises(ValueError, match="image_key= and target_key=, both as such paths") as caught:
        find_samples(batch)
    assert type(caught.value) is ValueError
    assert all(f"{path!r}: " in str(caught.value) for path in nested)
    image_key, target_key = (str(path) for path in paths)
    assert len(find_samples(batch, image_key, target_key)) == 1


def test_a_list_of_many_tensors_is_cut_short() -> None:
    with pytest.raises(ValueError, match=r"'0\.7': float32 \(8, 8\), \.\.\.: to mix"):
        find_samples([[torch.rand(8, 8)] * 100, CLASSES])


def test_one_entry_cannot_be_both_images_and_targets() -> None:
    with pytest.raises(ValueError, match="image_key and target_key both name 0: "):
        find_samples([IMAGES, CLASSES], 0, 0)
    with pytest.raises(ValueError, match=r"both name 'a\.b': "):
        find_samples({"a": {"b": IMAGES}, "c": CLASSES}, "a.b", ["c", "a.b"])
