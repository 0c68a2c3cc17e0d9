"""Small files in the layouts of the published data sets."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from experiments.data import CIFAR10DataModule, ImageDataModule

WNIDS = ("n02", "n01", "n03")


def write_image(path: Path, value: int, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> None:
    """A flat image of one gray value, so that what is read can be told apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(path, format="JPEG")


def write_tiny_imagenet(root: Path) -> Path:
    for order, wnid in enumerate(WNIDS):
        for number in range(4):
            # The first training image of each class is gray, as some of the official ones are.
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
                write_image(root / part / name / f"{number}.jpg", 50 + 100 * value + 10 * number, size)
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
    """Undo the normalization: back to 0..255."""
    return (image * torch.tensor(module.std)[:, None, None] + torch.tensor(module.mean)[:, None, None]) * 255


def ready(module: ImageDataModule) -> ImageDataModule:
    module.prepare_data()
    module.setup("fit")
    return module
