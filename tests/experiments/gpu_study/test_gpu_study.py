"""The study for some minutes of a GPU: its data, its test, and a dry run of the whole command."""

import io
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from experiments.gpu_study.data import MEAN, PADDING, STD, DeviceBatches, normalize, read_images
from experiments.gpu_study.training import test as score

REPOSITORY = Path(__file__).resolve().parents[3]


def make_zip(path: Path, part: str, classes: int = 3, count: int = 12, side: int = 32) -> dict[str, np.ndarray]:
    """Write PNG files of one part; return the pixels by name."""
    pixels = {}
    with zipfile.ZipFile(path, "a") as archive:
        for index in range(count):
            name = f"cifar/{part}/class{index % classes}/{index:03}.png"
            pixels[name] = np.random.default_rng(index + len(part)).integers(0, 256, (side, side, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels[name]).save(buffer, "png")
            archive.writestr(name, buffer.getvalue())
    return pixels


def test_archives_are_read_class_by_class(tmp_path: Path) -> None:
    """Also where the parts lie in two archives."""
    train = make_zip(tmp_path / "1.zip", "train")
    test = make_zip(tmp_path / "2.zip", "test", count=6)
    arrays = read_images([tmp_path / "1.zip", tmp_path / "2.zip"])
    for part, pixels in (("train", train), ("test", test)):
        names = sorted(pixels)
        assert arrays[f"{part}_classes"].tolist() == [int(name.split("class")[1][0]) for name in names]
        assert np.array_equal(
            arrays[f"{part}_images"], np.stack([pixels[name] for name in names]).transpose(0, 3, 1, 2)
        )


def test_a_missing_part_is_an_error(tmp_path: Path) -> None:
    make_zip(tmp_path / "1.zip", "train")
    with pytest.raises(
        ValueError, match=r"1\.zip must hold train/<class>/ and test/<class>/ of the same classes, got 3 and 0"
    ):
        read_images([tmp_path / "1.zip"])


def test_every_image_is_a_crop_of_itself_or_its_mirror() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, 3, 8, 8), generator=generator, dtype=torch.uint8)
    batches = DeviceBatches(images, torch.arange(6), 6, seed=1)
    found = [next(iter(batches)) for _ in range(20)]
    crops = set()
    for normalized, classes in found:
        assert sorted(classes.tolist()) == list(range(6))
        pixels = (255 * (normalized * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1))).round()
        for image, label in zip(pixels, classes.tolist(), strict=True):
            padded = F.pad(images[label].float(), [PADDING] * 4)
            places = [
                (top, left, mirrored)
                for mirrored in (False, True)
                for top in range(2 * PADDING + 1)
                for left in range(2 * PADDING + 1)
                if torch.equal(
                    padded[:, top : top + 8, left : left + 8].flip(2)
                    if mirrored
                    else padded[:, top : top + 8, left : left + 8],
                    image,
                )
            ]
            assert places, "no crop of it"
            crops |= set(places)
    assert len(crops) > 60, "the places must vary"
    again = next(iter(DeviceBatches(images, torch.arange(6), 6, seed=1)))
    assert torch.equal(again[0], found[0][0])


def test_scores_of_a_linear_classifier_by_hand() -> None:
    """Its gradient under FGSM is known: the weights of the other classes minus those of its own."""
    torch.manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    images = torch.randint(256, (64, 3, 4, 4), dtype=torch.uint8)
    classes = torch.randint(2, (64,))
    found = score(net, images, classes)
    logits = net(normalize(images))
    assert found["top1"] == pytest.approx(float((logits.argmax(1) == classes).float().mean()))
    assert found["nll"] == pytest.approx(float(F.cross_entropy(logits, classes)), abs=1e-5)
    weight = net[1].weight
    sign = (weight[1 - classes] - weight[classes]).sign().view(64, 3, 4, 4)
    attacked = (images.float() / 255 + 4 / 255 * sign).clamp(0, 1)
    expected = float((net(normalize(255 * attacked)).argmax(1) == classes).float().mean())
    assert found["fgsm_4_255"] == pytest.approx(expected)
    assert found["fgsm_4_255"] < found["top1"]


@pytest.mark.slow
def test_the_command_ends_in_time_with_a_result_of_each_method(tmp_path: Path) -> None:
    make_zip(tmp_path / "all.zip", "train", count=60)
    make_zip(tmp_path / "all.zip", "test", count=9)
    command = [
        "bash",
        str(REPOSITORY / "experiments" / "gpu_study.sh"),
        str(tmp_path / "out"),
        "240",
        str(tmp_path / "all.zip"),
        "--emulate",
    ]
    start = time.monotonic()
    result = subprocess.run(
        command,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-2000:]
    assert time.monotonic() - start < 240
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert set(found) == {"none", "mixup", "cutmix", "manifold", "puzzlemix"}
    assert len({each["planned_steps"] for each in found.values()}) == 1
    for name, each in found.items():
        assert each["steps"] == each["planned_steps"]
        assert 0 <= each["top1"] <= 1
        lines = (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()
        assert len(lines) == each["epochs"]
    assert not (tmp_path / "out" / "images.npz").exists()
