"""Images in one folder a class, ImageNet among them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import pixels_of, ready, write_folders, write_image
from PIL import Image
from torchvision import datasets

from experiments.data import FolderDataModule, ImageNetDataModule, MissingDataError, UnreadableImageError
from experiments.data.class_folders import ClassFolders
from experiments.data.errors import DatasetError
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
    with pytest.raises(ValueError, match=r"must hold one folder for each class of the data set.*horse"):
        FolderDataModule(root=tmp_path).setup()


def test_imagenet_shapes_and_random_colors(tmp_path: Path) -> None:
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


def test_imagenet_without_colors_and_with_sizes_of_its_own(tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", "val"), size=(300, 260))
    settings = {"jitter": 0, "lighting": 0, "image_size": 32, "eval_size": 48, "eval_resize": 64}
    module = ready(ImageNetDataModule(root=tmp_path, num_workers=0, **settings))
    image, _ = module.split("train")[0]
    assert image.shape == (3, 32, 32)
    assert pixels_of(module, image).std() < 1
    assert module.split("test")[0][0].shape == (3, 48, 48)


def test_the_random_crop_takes_no_less_than_the_smallest_share(tmp_path: Path) -> None:
    """On an image whose gray values are its columns, the spread of a crop tells how much of the width it took."""
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


def test_some_of_imagenet_s_folders_keep_their_names(tmp_path: Path) -> None:
    for wnid in ("n01443537", "n01440764"):
        write_image(tmp_path / "train" / wnid / "0.JPEG", 0)
    assert ImageNetDataModule(root=tmp_path).class_names == ["n01440764", "n01443537"]


def test_imagenet_s_thousand_folders_take_torchvision_s_names(tmp_path: Path) -> None:
    wnids = ["n01440764", *(f"n{2000000 + index:08d}" for index in range(998)), "n15075141"]
    for wnid in wnids:
        (tmp_path / "train" / wnid).mkdir(parents=True)
        (tmp_path / "train" / wnid / "0.JPEG").touch()
    names = ImageNetDataModule(root=tmp_path).class_names
    assert (len(names), names[0], names[1], names[-1]) == (1000, "tench", "goldfish", "toilet tissue")


def open_folder(root: Path, **settings: object) -> FolderDataModule:
    module = FolderDataModule(root=root, image_size=16, num_workers=0, **settings)  # type: ignore[arg-type]
    module.setup()
    return module


def refused(root: Path) -> str:
    """The one line that the user is told, already when the network asks for the classes or else when the data are set up."""
    with pytest.raises(DatasetError) as caught:
        open_folder(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "leftover", [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir", "__pycache__", "lost+found", "$RECYCLE.BIN"]
)
def test_hidden_folders_and_leftovers_are_neither_classes_nor_images(leftover: str, tmp_path: Path) -> None:
    """In one part alone, with images, without, and inside of a class."""
    write_folders(tmp_path, ("train", "val"))
    write_image(tmp_path / "train" / leftover / "0.jpg", 1)
    (tmp_path / "val" / leftover).mkdir()
    write_image(tmp_path / "train" / "cat" / leftover / "0-checkpoint.jpg", 1)
    module = open_folder(tmp_path)
    assert module.class_names == ["cat", "dog"]
    assert (len(module.split("train")), len(module.split("test"))) == (6, 6)


@pytest.mark.parametrize("leftover", [".DS_Store", "._0.jpg", ".hidden.png", "Thumbs.db", "labels.csv"])
def test_hidden_files_and_files_of_other_kinds_are_no_images(leftover: str, tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", "val"))
    for folder in ("train", "train/cat", "val/dog"):
        (tmp_path / folder / leftover).write_bytes(b"no image")
    assert len(open_folder(tmp_path).split("train")) == 6


def test_images_below_a_class_are_found_at_any_depth_and_in_torchvision_s_order(tmp_path: Path) -> None:
    for name in ("b/1.JPG", "b/x.jpeg", "b-c/0.png", "b/deep/er/2.webp", "a.tif"):
        path = tmp_path / "cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    folders = ClassFolders(tmp_path)
    found = [(str(path), label) for path, label in zip(folders.items, folders.targets, strict=True)]
    assert found == datasets.ImageFolder(str(tmp_path)).samples


@pytest.mark.parametrize(("name", "content"), [("horse", "empty"), ("horse", "2 .gif, 1 .txt")])
def test_a_class_without_images_is_named_with_what_it_holds(name: str, content: str, tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", "val"))
    for part in ("train", "val"):
        (tmp_path / part / name).mkdir()
        for file in ("a.gif", "b.GIF", "notes.txt") if content != "empty" else ():
            (tmp_path / part / name / file).touch()
    told = refused(tmp_path)
    assert (
        f"{tmp_path / 'train'} has class folders without images: ['{name}']; it must hold one folder per class" in told
    )


def test_classes_of_parts_that_differ_are_named_by_part(tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", "val"))
    write_image(tmp_path / "train" / "Horse" / "0.jpg", 1)
    write_image(tmp_path / "val" / "horse" / "0.jpg", 1)
    told = refused(tmp_path)
    assert f"{tmp_path / 'val'} must hold one folder for each class" in told
    assert "it lacks ['Horse'], and has ['horse'] besides" in told


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_folder_of_images_without_classes(part: str, tmp_path: Path) -> None:
    write_folders(tmp_path, tuple({"train", "val"} - {part}))
    for number in range(5):
        write_image(tmp_path / part / f"{number}.jpg", 1)
    told = refused(tmp_path)
    assert f"{tmp_path / part} has no class folders" in told or "it lacks ['cat', 'dog']" in told
    assert f"{tmp_path / part} " in told


def test_images_beside_the_class_folders_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folders(tmp_path, ("train", "val"))
    for name in (*(f"{number}.jpg" for number in range(7)), ".hidden.jpg", "notes.txt"):
        write_image(tmp_path / "train" / name, 1) if name.endswith("jpg") else (tmp_path / "train" / name).touch()
    assert len(open_folder(tmp_path).split("train")) == 6
    (warning,) = caplog.messages
    names = "['0.jpg', '1.jpg', '2.jpg', '3.jpg', '4.jpg']"
    assert warning == f"left out 7 images directly in {tmp_path / 'train'}, in no class folder: {names}"


def test_a_part_without_anything(tmp_path: Path) -> None:
    write_folders(tmp_path, ("val",))
    (tmp_path / "train").mkdir()
    assert "train has no class folders; it must hold one folder per class" in refused(tmp_path)


def test_two_folders_that_could_be_the_validation_part(tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", "val", "validation"))
    assert "holds val and validation; keep one of them as the validation part" in refused(tmp_path)


def test_links_are_followed_and_those_that_lead_nowhere_named(tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", "val"))
    write_image(tmp_path / "elsewhere" / "0.jpg", 1)
    train = tmp_path / "train"
    (train / "cat" / "linked.jpg").symlink_to(tmp_path / "elsewhere" / "0.jpg")
    (train / "dog" / "linked").symlink_to(tmp_path / "elsewhere")
    assert sum(1 for _ in open_folder(tmp_path).split("train")) == 8
    (train / "cat" / "gone.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(UnreadableImageError, match=r"cat/gone\.jpg cannot be read as an image .*No such file"):
        list(open_folder(tmp_path).split("train"))


@pytest.mark.parametrize("target", ["cat", "cat/deep", "train", "", "circle"])
def test_a_link_that_leads_in_a_circle_is_named(target: str, tmp_path: Path) -> None:
    """To a folder above it, also by way of another link."""
    write_folders(tmp_path / "data", ("train", "val"))
    cat = tmp_path / "data" / "train" / "cat"
    (cat / "deep").mkdir()
    if target == "circle":
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "back").symlink_to(cat)
        (cat / "deep" / "away").symlink_to(tmp_path / "outside")
        link, leads_to = cat / "deep" / "away" / "back", cat
    else:
        link = cat / "deep" / "again"
        leads_to = cat.parents[1] / {"cat": "train/cat", "cat/deep": "train/cat/deep"}.get(target, target)
        link.symlink_to(leads_to)
    assert refused(tmp_path / "data") == f"{link} is a link to {leads_to}, which holds it: remove the link"


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root everything may be listed: the system's refusal is made up."""
    write_folders(tmp_path, ("train", "val"))
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "dog cannot be listed (Permission denied)" in refused(tmp_path)


def test_grey_networks_read_grey_images_and_other_channels_are_refused(tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", "val"))
    module = open_folder(tmp_path, mean=(0.5,), std=(0.5,))
    assert module.split("train")[0][0].shape == (1, 16, 16)
    with pytest.raises(ValueError, match=r"data\.mean must be 1 value .* or 3 .*, got .0\.5, 0\.5"):
        open_folder(tmp_path, mean=(0.5, 0.5), std=(0.5, 0.5))


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(MissingDataError, match=r"images\.zip/train(.|\n)*there, extracted"):
        open_folder(tmp_path / "images.zip")
