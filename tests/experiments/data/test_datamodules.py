"""Every data module on small files in the official layouts."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import pixels_of, ready, write_cifar, write_tiny_imagenet
from torch import Tensor

from experiments.common.random_streams import Stream
from experiments.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FolderDataModule,
    ImageNetDataModule,
    MissingDataError,
    TinyImageNetDataModule,
)
from experiments.data.splits import sample_classes
from lightning_puzzlemix.normalization import to_pixels

SHARED_TINY = Path(__file__).resolve().parents[4] / "shared" / "data" / "tiny-imagenet-200.zip"


def test_digits_are_split_without_overlap_and_normalized() -> None:
    module = ready(DigitsDataModule())
    sizes = {name: len(module.split(name)) for name in ("train", "val", "test")}
    assert sum(sizes.values()) == 1797
    assert 350 <= sizes["test"] <= 370
    train_source, test_source = module.split("train").source, module.split("test").source
    assert train_source is not test_source
    assert not set(module.split("train").indices) & set(module.split("val").indices)
    counts = np.bincount(module.split("test").targets)
    assert counts.max() - counts.min() <= 2
    images, targets = next(iter(module.train_dataloader()))
    assert images.shape == (64, 1, 32, 32)
    assert targets.dtype == torch.int64
    everything = torch.stack([module.split("test")[index][0] for index in range(sizes["test"])])
    assert abs(everything.mean()) < 0.05
    assert abs(everything.std() - 1) < 0.05


def test_digits_test_part_depends_on_the_split_seed_only() -> None:
    def test_images(**settings: int) -> Tensor:
        return ready(DigitsDataModule(**settings)).split("test").source.items  # type: ignore[attr-defined]

    assert torch.equal(test_images(seed=1), test_images(seed=2))
    assert not torch.equal(test_images(split_seed=1), test_images(split_seed=2))


def sample(
    targets: list[int],
    indices: Sequence[int],
    count: Callable[[int], int],
    *,
    stream: Stream = Stream.PER_CLASS,
    seed: int = 0,
) -> tuple[list[int], list[int]]:
    return sample_classes(targets, indices, count, stream=stream, seed=seed)


def test_stratified_split_and_parts_count_by_class() -> None:
    targets = [0] * 10 + [1] * 20 + [2] * 5
    taken, kept = sample(targets, range(35), lambda size: round(0.2 * size))
    assert sorted(kept + taken) == list(range(35))
    assert np.bincount([targets[index] for index in taken]).tolist() == [2, 4, 1]
    limited, _ = sample(targets, kept, lambda _: 6)
    assert set(limited) <= set(kept)
    assert np.bincount([targets[index] for index in limited]).tolist() == [6, 6, 4]
    assert limited != sample(targets, kept, lambda _: 6, seed=1)[0]
    assert limited != sample(targets, kept, lambda _: 6, stream=Stream.VALIDATION_PART)[0]


def test_smaller_parts_are_part_of_larger_ones() -> None:
    targets = [index % 3 for index in range(60)]
    few, more = (set(sample(targets, range(60), lambda _, limit=limit: limit)[0]) for limit in (2, 7))
    assert few < more


def test_all_digits_but_a_few_of_each_are_test_images() -> None:
    module = ready(DigitsDataModule(per_class=10, test_fraction=None, val_fraction=0))
    train, test = module.split("train"), module.split("test")
    assert [train.targets.count(digit) for digit in range(10)] == [10] * 10
    assert (len(train), len(test)) == (100, 1697)
    assert module.validates_on_test
    assert not {image.numpy().tobytes() for image, _ in train.source} & {
        image.numpy().tobytes() for image, _ in test.source
    }
    with pytest.raises(
        ValueError, match=r"data.test_fraction must be in \(0, 1\), or null with data.per_class, got None"
    ):
        DigitsDataModule(test_fraction=None)


def test_digits_on_a_fraction_of_the_training_images() -> None:
    whole, tenth = (ready(DigitsDataModule(fraction=fraction)) for fraction in (1.0, 0.1))
    assert len(tenth.split("train")) == pytest.approx(0.1 * len(whole.split("train")), abs=5)
    for part in ("val", "test"):
        assert tenth.split(part).indices == whole.split(part).indices
    # Never nothing: a class without images could not be learnt.
    assert len(ready(DigitsDataModule(fraction=0.001)).split("train")) == 10


def test_test_images_are_scored_in_every_epoch_where_others_validate() -> None:
    module = ready(DigitsDataModule())
    assert not module.validates_on_test
    sizes = [len(loader.dataset) for loader in module.val_dataloader()]  # type: ignore[arg-type]
    assert sizes == [len(module.split("val")), len(module.split("test"))]
    assert len(ready(DigitsDataModule(test_each_epoch=False)).val_dataloader()) == 1
    module = ready(DigitsDataModule(val_fraction=0.0))
    assert module.validates_on_test
    assert len(module.val_dataloader()) == 1


@pytest.mark.parametrize("module_class", [CIFAR10DataModule, CIFAR100DataModule])
def test_cifar_reads_the_official_pickles(
    module_class: type[CIFAR10DataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, module_class, monkeypatch)
    module = ready(module_class(root=tmp_path, batch_size=4, num_workers=0))
    assert module.num_classes == len(module.class_names) == module_class.classes
    assert len(module.split("train")) == 10 * len(module_class.dataset.train_list)
    image, target = module.split("test")[7]
    assert target == 1
    assert image.shape == (3, 32, 32)
    assert torch.allclose(pixels_of(module, image), torch.full((3, 32, 32), 7.0), atol=1e-3)
    assert module.split("val") is module.split("test")


def test_cifar_validation_share_comes_from_the_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, CIFAR10DataModule, monkeypatch)
    module = ready(CIFAR10DataModule(root=tmp_path, num_workers=0, val_fraction=0.2))
    assert len(module.split("train")) == 40
    assert len(module.split("val")) == 10
    # Validation images are not augmented: every pixel keeps its value.
    assert pixels_of(module, module.split("val")[0][0]).std() < 1e-3


def test_cifar_without_files_and_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10DataModule.dataset, "url", "file:///nowhere/cifar-10-python.tar.gz")
    with pytest.raises(MissingDataError, match=r"downloading .* failed") as caught:
        CIFAR10DataModule(root=tmp_path).prepare_data()
    for hint in (str(tmp_path), "cifar-10-python.tar.gz", "data.root="):
        assert hint in str(caught.value)
    with pytest.raises(MissingDataError, match=r"data\.download=true"):
        CIFAR10DataModule(root=tmp_path, download=False).setup()


@pytest.mark.parametrize("layout", ["folder", "zip", "holds folder", "holds zip"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_tiny_imagenet_from_every_place(layout: str, num_workers: int, tmp_path: Path) -> None:
    root = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    if "zip" in layout:
        archive = tmp_path / "zipped" / "tiny-imagenet-200.zip"
        archive.parent.mkdir()
        with zipfile.ZipFile(archive, "w") as file:
            for path in root.rglob("*.*"):
                file.write(path, path.relative_to(tmp_path))
        root = archive
    place = root.parent if layout.startswith("holds") else root
    module = ready(TinyImageNetDataModule(root=place, num_workers=num_workers, batch_size=5))
    assert module.class_names == ["goldfish", "tree frog", "ox"]
    assert module.num_classes == 3
    assert sorted(module.split("train").targets) == [0] * 4 + [1] * 4 + [2] * 4
    # val_0 is an ox, val_1 a goldfish: the labels come from the annotations, not from any order.
    images, targets = next(iter(module.test_dataloader()))
    assert targets.tolist() == [2, 0]
    assert torch.allclose(images.mean(dim=(1, 2, 3)) * 127.5 + 127.5, torch.tensor([100.0, 150.0]), atol=2)
    batches = [batch for batch, _ in module.train_dataloader()]
    assert sum(len(batch) for batch in batches) == 12
    assert batches[0].shape == (5, 3, 64, 64)


def test_tiny_imagenet_per_class(tmp_path: Path) -> None:
    root = write_tiny_imagenet(tmp_path / "tiny")
    module = ready(TinyImageNetDataModule(root=root, per_class=2))
    assert np.bincount(module.split("train").targets).tolist() == [2, 2, 2]
    assert len(module.split("test")) == 2


@pytest.mark.skipif(not SHARED_TINY.exists(), reason="needs ../shared/data/tiny-imagenet-200.zip")
def test_tiny_imagenet_official_zip(tmp_path: Path) -> None:
    (tmp_path / "tiny.zip").symlink_to(SHARED_TINY)
    module = ready(TinyImageNetDataModule(root=tmp_path / "tiny.zip", per_class=2, num_workers=0, batch_size=8))
    assert module.num_classes == 200
    assert "goldfish" in module.class_names
    assert len(module.split("train")) == 400
    images, _ = next(iter(module.train_dataloader()))
    assert images.shape == (8, 3, 64, 64)
    assert images.std() > 0.2
    assert module.split("test").targets[0] == module.split("train").source.classes.index("n03444034")


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        (lambda root: TinyImageNetDataModule(root=root), "tiny-imagenet-200.zip"),
        (lambda root: ImageNetDataModule(root=root), "image-net.org"),
        (lambda root: FolderDataModule(root=root), "train/<class>"),
    ],
)
def test_missing_data_says_where_and_how(module, hint: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        _ = module(tmp_path / "absent").num_classes
    for part in (str(tmp_path / "absent"), hint, "data.root=", "PUZZLEMIX_DATA"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_fraction": 1.0}, r"data\.val_fraction must be in \[0, 1\), got 1\.0"),
        ({"per_class": 0}, r"data\.per_class must be at least 1, got 0"),
        ({"fraction": 0.0}, r"data\.fraction must be in \(0, 1\], got 0\.0"),
        ({"fraction": 0.5, "per_class": 3}, r"data\.fraction must be 1 with data\.per_class=3, got 0\.5"),
        ({"augment": {"AugMixx": {}}}, r"data\.augment must be .*got \{'AugMixx': \{\}\} \(.*no attribute 'AugMixx'"),
        ({"augment": {"AugMix": {"sev": 1}}}, r"data\.augment must be .*unexpected keyword argument 'sev'"),
        ({"augment": {"AugMix": {}}, "views": "both"}, r"data\.views must be clean, augmented or null, got both"),
        ({"views": "clean"}, r"data\.views must be null without data\.augment, got clean"),
        ({"test_fraction": 0.0}, r"data\.test_fraction must be in \(0, 1\), or null .*, got 0\.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**settings)


def test_augmentation_changes_training_images_alone() -> None:
    plain, flipped = (
        ready(DigitsDataModule(max_shift=0, augment=augment)) for augment in ({}, {"RandomHorizontalFlip": {"p": 1}})
    )
    assert torch.equal(flipped.split("train")[3][0], plain.split("train")[3][0].flip(-1))
    assert not torch.equal(flipped.split("train")[3][0], plain.split("train")[3][0])
    assert torch.equal(flipped.split("test")[3][0], plain.split("test")[3][0])


@pytest.mark.parametrize(("views", "place"), [("clean", 0), ("augmented", 1)])
def test_three_views_share_the_crop_and_differ_in_the_augmentation(views: str, place: int) -> None:
    noise = {"ColorJitter": {"brightness": [0.3, 0.9]}}
    module = ready(DigitsDataModule(batch_size=6, num_workers=0, augment=noise, views=views))
    images, classes, every = next(iter(module.train_dataloader()))
    assert (images.shape, classes.shape, every.shape) == ((6, 1, 32, 32), (6,), (6, 3, 1, 32, 32))
    assert torch.equal(images, every[:, place])
    # Same crop, darker: each image is a multiple of the first one, drawn anew for both of them.
    pixels = to_pixels(every, module.mean, module.std)
    factors = pixels.flatten(2).sum(dim=2) / pixels[:, :1].flatten(2).sum(dim=2)
    assert torch.allclose(pixels, factors[..., None, None, None] * pixels[:, :1], atol=0.02)
    assert (factors[:, 1:] - 1).abs().max() > 0.1
    assert (factors[:, 1] - factors[:, 2]).abs().max() > 0.1
    again = next(
        iter(ready(DigitsDataModule(batch_size=6, num_workers=0, augment=noise, views=views)).train_dataloader())
    )
    assert torch.equal(again[2], every)
