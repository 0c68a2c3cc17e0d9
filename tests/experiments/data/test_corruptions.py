"""Corrupted test sets in both published layouts, written so that the accuracy is known by hand."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from experiments.common.errors import UserError
from experiments.data import ImageDataModule, Sources, UnreadableImageError
from experiments.data.corruptions import PUBLISHED, CorruptedImages
from experiments.data.splits import Transform
from experiments.robustness import CorruptionScores, Evaluator

SIZE = 8
# Gray levels far enough apart to survive JPEG.
LEVELS = (20, 120, 220)
LABELS = (0, 1, 2, 2, 1, 0, 0, 1, 2, 1)
CPU = torch.device("cpu")


@dataclass
class Pictures:
    """Gray pictures whose level tells the class."""

    targets: list[int]
    classes = ("n01", "n02", "n03")

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (SIZE, SIZE), (LEVELS[self.targets[index]],) * 3), self.targets[index]


class LevelsDataModule(ImageDataModule):
    """Three classes of gray pictures."""

    def __init__(self, targets: list[int], **common: int) -> None:
        super().__init__(image_size=SIZE, mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 0.2), num_workers=0, **common)
        self.targets = targets

    @property
    def class_names(self) -> list[str]:
        return ["n02", "n01", "n03"]

    def open_sources(self) -> Sources:
        return Sources(train=Pictures([0, 1, 2]), test=Pictures(self.targets))

    def train_transform(self) -> Transform:
        return self.eval_transform()


class Reader(nn.Module):
    """Reads the class off the level of the green channel; normalized wrongly, it would be wrong."""

    def forward(self, images: Tensor) -> Tensor:
        green = (images[:, 1].mean(dim=(1, 2)) * 0.25 + 0.4) * 255
        return -(green[:, None] - torch.tensor(LEVELS)).abs()


@pytest.fixture
def data() -> LevelsDataModule:
    module = LevelsDataModule(list(LABELS), batch_size=4)
    module.setup("test")
    return module


def shown(label: int, *, wrong: bool) -> int:
    return LEVELS[(label + 1) % 3 if wrong else label]


def write_arrays(root: Path, wrong: dict[str, tuple[int, ...]], labels: tuple[int, ...] = LABELS) -> None:
    """One array a type; of each severity the first so many pictures look like another class."""
    root.mkdir(exist_ok=True)
    np.save(root / "labels.npy", np.array(labels * 5))
    for name, counts in wrong.items():
        levels = [shown(label, wrong=index < count) for count in counts for index, label in enumerate(labels)]
        images = np.broadcast_to(np.array(levels, dtype=np.uint8)[:, None, None, None], (len(levels), SIZE, SIZE, 3))
        np.save(root / f"{name}.npy", images)


def write_folders(root: Path, wrong: dict[str, tuple[int, ...]], per_class: int = 4) -> None:
    """Four pictures a class in JPEG files; of each severity the last so many of the first class are wrong."""
    for name, counts in wrong.items():
        for severity, count in enumerate(counts, start=1):
            for label, wnid in enumerate(("n01", "n02", "n03")):
                folder = root / name / str(severity) / wnid
                folder.mkdir(parents=True)
                for index in range(per_class):
                    level = shown(label, wrong=label == 0 and index >= per_class - count)
                    # Gray files in one class: some of the published files are gray.
                    picture = Image.new(
                        "L" if label == 1 else "RGB", (SIZE, SIZE), level if label == 1 else (level,) * 3
                    )
                    picture.save(folder / f"{wnid}_{index}.JPEG", quality=95)


def measure(root: Path, data: ImageDataModule, *, limit: int | None = None) -> CorruptionScores:
    evaluator = Evaluator(Reader(), data, CPU, limit, seed=0)
    corrupted = CorruptedImages(root, data)
    scores = CorruptionScores(root=str(root))
    for name in corrupted.types:
        evaluator.measure_corruption(corrupted, name, scores)
    return scores


def test_arrays_give_the_accuracies_that_were_written(data: LevelsDataModule, tmp_path: Path) -> None:
    write_arrays(tmp_path, {"spatter": (9, 9, 9, 9, 9), "fog": (0, 1, 2, 5, 10), "gaussian_noise": (3, 3, 3, 4, 4)})
    scores = measure(tmp_path, data)
    assert scores.images == 10
    assert list(scores.accuracy) == ["gaussian_noise", "fog", "spatter"]
    assert scores.accuracy["fog"] == pytest.approx({1: 1.0, 2: 0.9, 3: 0.8, 4: 0.5, 5: 0.0})
    assert scores.accuracy["spatter"] == pytest.approx(dict.fromkeys(range(1, 6), 0.1))
    content = scores.model_dump()
    # Spatter is not one of the published 15.
    assert content["mean"] == pytest.approx((0.64 + 0.66) / 2)
    assert content["types_in_mean"] == ["gaussian_noise", "fog"]
    assert content["mean_by_type"] == pytest.approx({"gaussian_noise": 0.66, "fog": 0.64, "spatter": 0.1})


def test_folders_give_the_accuracies_that_were_written(data: LevelsDataModule, tmp_path: Path) -> None:
    write_folders(tmp_path, {"snow": (0, 1, 2, 3, 4)})
    scores = measure(tmp_path, data)
    assert scores.images == 12
    assert scores.accuracy["snow"] == pytest.approx({1: 1, 2: 11 / 12, 3: 10 / 12, 4: 9 / 12, 5: 8 / 12})


def test_a_limited_look_has_all_classes_of_a_sorted_folder(data: LevelsDataModule, tmp_path: Path) -> None:
    """Every second file: of the first class 0 and 2, of which only 2 may be wrong."""
    write_folders(tmp_path, {"snow": (0, 1, 2, 3, 4)})
    scores = measure(tmp_path, data, limit=6)
    assert scores.images == 6
    assert scores.accuracy["snow"] == pytest.approx({1: 1, 2: 1, 3: 5 / 6, 4: 5 / 6, 5: 4 / 6})


@pytest.mark.parametrize("named_by", ["source", "module"])
def test_folders_are_those_of_the_images_or_else_the_class_names(
    named_by: str, data: LevelsDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ImageFolder knows its folders; the names of the classes may be others."""
    monkeypatch.setattr(Pictures, "classes", ("n02", "n01", "n03") if named_by == "source" else None)
    write_folders(tmp_path, {"snow": (0, 0, 0, 0, 0)})
    corrupted = CorruptedImages(tmp_path, data)
    images = corrupted.split("snow", 1)
    assert images.targets == [0] * 4 + [1] * 4 + [2] * 4
    image, _ = images.source[0]
    assert image.mode == "RGB"
    assert np.asarray(image).mean() == pytest.approx(LEVELS[1], abs=3)


def test_arrays_stay_on_disk_and_can_go_to_loader_processes(data: LevelsDataModule, tmp_path: Path) -> None:
    write_arrays(tmp_path, {"fog": (0, 0, 0, 0, 10)})
    corrupted = CorruptedImages(tmp_path, data)
    block = corrupted.split("fog", 5).source
    before = np.asarray(block[3][0])
    assert isinstance(block.items, np.memmap)  # type: ignore[attr-defined]
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(block))[3][0]), before)
    assert before.shape == (SIZE, SIZE, 3)
    assert (before == LEVELS[0]).all()


def test_grey_arrays(tmp_path: Path) -> None:
    module = LevelsDataModule(list(LABELS))
    module.mean, module.std = (0.5,), (0.5,)
    module.setup("test")
    write_arrays(tmp_path, {"fog": (0, 0, 0, 0, 0)})
    np.save(tmp_path / "fog.npy", np.load(tmp_path / "fog.npy")[..., :1])
    corrupted = CorruptedImages(tmp_path, module)
    image, label = corrupted.split("fog", 1)[1]
    assert (image.shape, label) == ((1, SIZE, SIZE), 1)
    assert image.unique().tolist() == pytest.approx([(120 / 255 - 0.5) / 0.5], abs=1e-6)


def test_only_the_chosen_types_are_opened(data: LevelsDataModule, tmp_path: Path) -> None:
    write_arrays(tmp_path, {"fog": (0,) * 5, "snow": (0,) * 5})
    np.save(tmp_path / "snow.npy", np.zeros(3))
    assert CorruptedImages(tmp_path, data, ["fog"]).types == ["fog"]
    with pytest.raises(UserError, match=r"corruptions.types: .* has no frost; it has snow, fog"):
        CorruptedImages(tmp_path, data, ["fog", "frost"])


def test_there_are_fifteen_published_types() -> None:
    assert len(set(PUBLISHED)) == 15


Break = Callable[[Path], None]


def rewrite(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Break:
    return lambda root: np.save(root / name, change(np.load(root / name)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "labels.npy").unlink(), "labels.npy is no complete array .*No such file"),
        (lambda root: (root / "fog.npy").unlink(), "holds no corruption"),
        (
            lambda root: (root / "fog.npy").write_bytes((root / "fog.npy").read_bytes()[:-9]),
            r"fog.npy is no complete array",
        ),
        (
            lambda root: (root / "fog.npy").write_bytes(b""),
            r"fog.npy is no complete array .*; download or extract it again",
        ),
        (lambda root: (root / "labels.npy").write_bytes(b"<html>"), r"labels.npy is no complete array"),
        (rewrite("labels.npy", lambda labels: labels[:-1]), r"10 test images five times, got others, of shape \(49,\)"),
        (rewrite("labels.npy", lambda labels: labels + 1), r"got others, of shape \(50,\): the corrupted images of an"),
        (rewrite("labels.npy", lambda labels: labels[::-1].copy()), r"must hold the labels of the 10 test images"),
        (rewrite("fog.npy", lambda images: images[:-5]), r"must be bytes \(50,H,W,3\).*got uint8 \(45, 8, 8, 3\)"),
        (rewrite("fog.npy", lambda images: images / 255), r"must be bytes .*got float64"),
        (rewrite("fog.npy", lambda images: images[..., :2]), r"the data's channels last, got uint8 \(50, 8, 8, 2\)"),
    ],
)
def test_damaged_arrays_are_refused(damage: Break, message: str, data: LevelsDataModule, tmp_path: Path) -> None:
    write_arrays(tmp_path, {"fog": (0,) * 5})
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        CorruptedImages(tmp_path, data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "snow" / "1").rename(root / "snow" / "one"), r"snow/1 cannot be listed \(No such file"),
        (lambda root: (root / "snow" / "4").rename(root / "four"), r"snow/4 cannot be listed \(No such file"),
        (lambda root: (root / "snow").rename(root / ".." / "gone"), "holds no corruption: extract"),
        (
            lambda root: (root / "snow" / "2" / "n02").rename(root / "snow" / "2" / "n09"),
            r"snow/2 must hold one folder for each class .* lacks \['n02'\], and has \['n09'\] besides",
        ),
    ],
)
def test_damaged_folders_are_refused(damage: Break, message: str, data: LevelsDataModule, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    write_folders(root, {"snow": (0,) * 5}, per_class=1)
    damage(root)
    with pytest.raises(UserError, match=message):
        CorruptedImages(root, data)


def test_folders_without_images_are_refused(data: LevelsDataModule, tmp_path: Path) -> None:
    write_folders(tmp_path, {"snow": (0,) * 5}, per_class=0)
    with pytest.raises(UserError, match=r"snow.1 has class folders without images: \['n01', 'n02', 'n03'\]"):
        CorruptedImages(tmp_path, data)


def test_a_missing_folder_is_named(data: LevelsDataModule, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corruptions.root .*nowhere holds no corruption: extract"):
        CorruptedImages(tmp_path / "nowhere", data)


def test_a_class_without_images_is_refused(data: LevelsDataModule, tmp_path: Path) -> None:
    """It would silently weigh nothing in the accuracy."""
    write_folders(tmp_path, {"snow": (0,) * 5}, per_class=1)
    (tmp_path / "snow" / "3" / "n02" / "n02_0.JPEG").unlink()
    with pytest.raises(UserError, match=r"snow.3 has class folders without images: \['n02'\]"):
        CorruptedImages(tmp_path, data)


def test_what_file_managers_leave_behind_is_neither_type_nor_class_nor_image(
    data: LevelsDataModule, tmp_path: Path
) -> None:
    write_folders(tmp_path, {"snow": (0,) * 5}, per_class=2)
    part = tmp_path / "snow" / "1"
    (part / ".ipynb_checkpoints").mkdir()
    (part / "n01" / "._n01_0.JPEG").write_bytes(b"x")
    (tmp_path / "__MACOSX" / "1").mkdir(parents=True)
    corrupted = CorruptedImages(tmp_path, data)
    assert corrupted.types == ["snow"]
    assert len(corrupted.split("snow", 1)) == 6


def test_a_broken_image_is_named(data: LevelsDataModule, tmp_path: Path) -> None:
    write_folders(tmp_path, {"snow": (0,) * 5}, per_class=1)
    (tmp_path / "snow" / "1" / "n01" / "n01_0.JPEG").write_bytes(b"")
    corrupted = CorruptedImages(tmp_path, data)
    with pytest.raises(
        UnreadableImageError, match=r"n01_0\.JPEG cannot be read as an image \(cannot identify image file"
    ):
        corrupted.split("snow", 1)[0]
