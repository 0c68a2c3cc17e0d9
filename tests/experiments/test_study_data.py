"""Every data module on small files in the official layouts."""

import hashlib
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from experiments.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FolderDataModule,
    ImageDataModule,
    ImageNetDataModule,
    MissingDataError,
    TinyImageNetDataModule,
)
from experiments.data.splits import EpochSampler, limit_per_class, split_stratified

SHARED_TINY = Path(__file__).resolve().parents[3] / "shared" / "data" / "tiny-imagenet-200.zip"
WNIDS = ("n02", "n01", "n03")


def write_image(path: Path, value: int, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> None:
    """A flat image of one grey value, so that what is read can be told apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(path, format="JPEG")


def write_tiny_imagenet(root: Path) -> Path:
    for order, wnid in enumerate(WNIDS):
        for number in range(4):
            # The first training image of each class is grey, as some of the official ones are.
            mode = "L" if number == 0 else "RGB"
            write_image(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", 10 * order, mode=mode)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes")
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\ttree frog\nn99\tunused\nn03\tox\n")
    lines = []
    for number, wnid in enumerate(("n03", "n01")):
        write_image(root / "val" / "images" / f"val_{number}.JPEG", 100 + 50 * number)
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t9\t9")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


def write_folders(root: Path, parts: tuple[str, ...], size: tuple[int, int] = (40, 48)) -> Path:
    for part in parts:
        for value, name in enumerate(("cat", "dog")):
            for number in range(3):
                write_image(root / part / name / f"{number}.jpg", 50 + 100 * value, size)
    return root


def write_cifar(root: Path, module: type[CIFAR10DataModule], monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR's pickles with 10 images a file, image i all of value i, and torchvision's checksums to match."""
    dataset = module.dataset
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    key = "labels" if module is CIFAR10DataModule else "fine_labels"
    names = [f"class {index}" for index in range(module.classes)]

    def dump(name: str, content: dict[str, object]) -> str:
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    def dump_batch(name: str) -> list[str]:
        pixels = np.repeat(np.arange(10, dtype=np.uint8)[:, None], 3072, axis=1)
        return [name, dump(name, {"data": pixels, key: [(3 * index) % 10 for index in range(10)]})]

    monkeypatch.setattr(dataset, "train_list", [dump_batch(name) for name, _ in dataset.train_list])
    monkeypatch.setattr(dataset, "test_list", [dump_batch(name) for name, _ in dataset.test_list])
    meta = {**dataset.meta, "md5": dump(dataset.meta["filename"], {dataset.meta["key"]: names})}
    monkeypatch.setattr(dataset, "meta", meta)


def pixels_of(module: ImageDataModule, image: Tensor) -> Tensor:
    """Undo the normalisation: back to 0..255."""
    return (image * torch.tensor(module.std)[:, None, None] + torch.tensor(module.mean)[:, None, None]) * 255


def ready(module: ImageDataModule) -> ImageDataModule:
    module.prepare_data()
    module.setup("fit")
    return module


def test_digits_are_split_without_overlap_and_normalised() -> None:
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
        return ready(DigitsDataModule(**settings)).split("test").source.images  # type: ignore[attr-defined]

    assert torch.equal(test_images(seed=1), test_images(seed=2))
    assert not torch.equal(test_images(split_seed=1), test_images(split_seed=2))


def test_sampler_orders_by_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(range(50), seed)  # type: ignore[arg-type]
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0, 0)) == list(range(50))
    assert order(0, 1) == order(0, 1)
    assert order(0, 0) != order(0, 1)
    assert order(0, 1) != order(1, 1)
    assert order(0, 1) != order(1, 0)


def test_stratified_split_and_limit_count_by_class() -> None:
    targets = [0] * 10 + [1] * 20 + [2] * 5
    kept, taken = split_stratified(targets, range(35), share=0.2, seed=0)
    assert sorted(kept + taken) == list(range(35))
    assert np.bincount([targets[index] for index in taken]).tolist() == [2, 4, 1]
    limited = limit_per_class(targets, kept, limit=6, seed=0)
    assert set(limited) <= set(kept)
    assert np.bincount([targets[index] for index in limited]).tolist() == [6, 6, 4]
    assert limited != limit_per_class(targets, kept, limit=6, seed=1)


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
    module = ready(CIFAR10DataModule(root=tmp_path, num_workers=0, val_share=0.2))
    assert len(module.split("train")) == 40
    assert len(module.split("val")) == 10
    # Validation images are not augmented: every pixel keeps its value.
    assert pixels_of(module, module.split("val")[0][0]).std() < 1e-3


def test_cifar_without_files_and_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10DataModule.dataset, "url", "file:///nowhere/cifar-10-python.tar.gz")
    with pytest.raises(MissingDataError, match="Downloading it failed") as caught:
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


def test_tiny_imagenet_limit_per_class(tmp_path: Path) -> None:
    root = write_tiny_imagenet(tmp_path / "tiny")
    module = ready(TinyImageNetDataModule(root=root, limit_per_class=2))
    assert np.bincount(module.split("train").targets).tolist() == [2, 2, 2]
    assert len(module.split("test")) == 2


@pytest.mark.skipif(not SHARED_TINY.exists(), reason="needs ../shared/data/tiny-imagenet-200.zip")
def test_tiny_imagenet_official_zip() -> None:
    module = ready(TinyImageNetDataModule(root=SHARED_TINY, limit_per_class=2, num_workers=0, batch_size=8))
    assert module.num_classes == 200
    assert "goldfish" in module.class_names
    assert len(module.split("train")) == 400
    images, _ = next(iter(module.train_dataloader()))
    assert images.shape == (8, 3, 64, 64)
    assert images.std() > 0.2
    assert module.split("test").targets[0] == module.wnids.index("n03444034")


@pytest.mark.parametrize(
    ("parts", "val", "test"),
    [(("train", "val"), "val", "val"), (("train", "test"), "test", "test"), (("train", "val", "test"), "val", "test")],
)
def test_image_folders(parts: tuple[str, ...], val: str, test: str, tmp_path: Path) -> None:
    write_folders(tmp_path, parts)
    module = ready(FolderDataModule(root=tmp_path, image_size=16, mean=(0.4,) * 3, std=(0.2,) * 3, num_workers=0))
    assert module.class_names == ["cat", "dog"]
    assert Path(module.split("val").source.root).name == val  # type: ignore[attr-defined]
    assert Path(module.split("test").source.root).name == test  # type: ignore[attr-defined]
    image, target = module.split("test")[3]
    assert target == 1
    assert image.shape == (3, 16, 16)
    assert torch.allclose(pixels_of(module, image), torch.full((3, 16, 16), 150.0), atol=2)
    assert module.split("train")[0][0].shape == (3, 16, 16)


def test_image_folders_with_unlike_classes_name_them(tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", "val"))
    write_image(tmp_path / "val" / "horse" / "0.jpg", 1)
    with pytest.raises(ValueError, match=r"same class folders.*horse"):
        FolderDataModule(root=tmp_path).setup()


def test_imagenet_shapes_and_random_colours(tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", "val"), size=(300, 260))
    module = ready(ImageNetDataModule(root=tmp_path, num_workers=0))
    assert module.batch_size == 256
    image, _ = module.split("test")[0]
    assert image.shape == (3, 224, 224)
    assert torch.allclose(pixels_of(module, image), torch.full((3, 224, 224), 50.0), atol=2)
    first, second = module.split("train")[0][0], module.split("train")[0][0]
    assert first.shape == (3, 224, 224)
    assert abs(first.mean() - second.mean()) > 1e-4


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
        ({"batch_size": 0}, r"data\.batch_size must be at least 1, got 0"),
        ({"val_share": 1.0}, r"data\.val_share must be in \[0, 1\), got 1\.0"),
        ({"limit_per_class": 0}, r"data\.limit_per_class must be null or at least 1, got 0"),
        ({"test_share": 0.0}, r"data\.test_share must be in \(0, 1\), got 0\.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**settings)  # type: ignore[arg-type]
