"""Images in one folder a class, ImageNet among them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import pixels_of, ready, write_folders, write_image
from PIL import Image

from experiments.data import FolderDataModule, ImageNetDataModule
from experiments.data.splits import EpochPosition


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
    train = module.split("train")
    first, second = train[0][0], train[EpochPosition(len(train))][0]
    assert first.shape == (3, 224, 224)
    assert abs(first.mean() - second.mean()) > 1e-4
    assert torch.equal(first, train[0][0])


def test_imagenet_without_colours_and_with_sizes_of_its_own(tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", "val"), size=(300, 260))
    settings = {"jitter": 0, "lighting": 0, "image_size": 32, "eval_size": 48, "eval_resize": 64}
    module = ready(ImageNetDataModule(root=tmp_path, num_workers=0, **settings))
    image, _ = module.split("train")[0]
    assert image.shape == (3, 32, 32)
    assert pixels_of(module, image).std() < 1
    assert module.split("test")[0][0].shape == (3, 48, 48)


def test_the_random_crop_takes_no_less_than_the_smallest_share(tmp_path: Path) -> None:
    """On an image whose grey values are its columns, the spread of a crop tells how much of the width it took."""
    ramp = np.tile(np.linspace(0, 255, 256, dtype=np.uint8)[None, :, None], (256, 1, 3))
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(ramp).save(tmp_path / part / "a" / "0.png")
    smallest = {}
    for scale in (0.9, 0.08):
        module = ready(ImageNetDataModule(root=tmp_path, num_workers=0, jitter=0, lighting=0, min_scale=scale))
        pixels = [pixels_of(module, module.split("train")[EpochPosition(epoch)][0]) for epoch in range(40)]
        smallest[scale] = min(((each.amax() - each.amin()) / 255).item() for each in pixels)
    assert smallest[0.9] > 0.75
    assert smallest[0.08] < 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_scale": 0.0}, r"data\.min_scale must be in \(0, 1\], got 0\.0"),
        ({"eval_resize": 200}, r"data\.eval_resize must be at least data\.eval_size=224, got 200"),
    ],
)
def test_imagenet_settings_out_of_range_are_refused(settings: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ImageNetDataModule(root=tmp_path, **settings)  # type: ignore[arg-type]


def test_imagenet_classes_have_words_where_they_are_known(tmp_path: Path) -> None:
    for wnid in ("n01443537", "n01440764"):
        write_image(tmp_path / "train" / wnid / "0.JPEG", 0)
    assert ImageNetDataModule(root=tmp_path).class_names == ["n01440764", "n01443537"]
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius\n")
    assert ImageNetDataModule(root=tmp_path).class_names == ["tench", "goldfish"]


def test_imagenet_s_thousand_folders_take_torchvision_s_names(tmp_path: Path) -> None:
    wnids = ["n01440764", *(f"n{2000000 + index:08d}" for index in range(998)), "n15075141"]
    for wnid in wnids:
        (tmp_path / "train" / wnid).mkdir(parents=True)
        (tmp_path / "train" / wnid / "0.JPEG").touch()
    names = ImageNetDataModule(root=tmp_path).class_names
    assert (len(names), names[0], names[1], names[-1]) == (1000, "tench", "goldfish", "toilet tissue")
