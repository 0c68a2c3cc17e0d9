"""What images of every kind are read as, wherever the study reads images: none turns blank, none is taken amiss in silence."""

import contextlib
import gc
import io
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import pixels_of, ready, write_tiny_imagenet
from odd_images import COLOURS, READABLE, TURNED, UNREADABLE, saved, turned, write
from PIL import Image
from torch.utils.data import DataLoader

from experiments.data import FolderDataModule, TinyImageNetDataModule, UnreadableImageError
from experiments.data.class_folders import ClassFolders
from experiments.data.errors import DatasetError
from experiments.data.image_reading import read_image
from experiments.resize_images import main as resize
from experiments.show import read_pixels

# Of 255, half a step of rounding twice.
TOLERANCE = 1.5


@pytest.mark.parametrize("kind", READABLE)
def test_every_kind_is_read_as_it_looks(kind: str, tmp_path: Path) -> None:
    """From a file, from the bytes of a zip, from its class folder, and to be shown."""
    make, expected = READABLE[kind]
    path = write(tmp_path / "cat" / "odd.png", make())
    height, width = expected.shape[:2]
    for image in (read_image(path), read_image(path.read_bytes(), name="odd"), ClassFolders(tmp_path)[0][0]):
        assert (image.mode, image.size) == ("RGB", (width, height))
        np.testing.assert_allclose(np.asarray(image, float), expected, atol=TOLERANCE)
    shown = read_pixels(path, height=height, width=width, channels=3).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(255 * shown, expected, atol=TOLERANCE)


def test_grey_is_luma_and_white_where_it_is_transparent() -> None:
    make, expected = READABLE["rgba"]
    image = read_image(make(), "L")
    assert image.mode == "L"
    np.testing.assert_allclose(np.asarray(image, float), expected @ np.array([0.299, 0.587, 0.114]), atol=2 * TOLERANCE)


def test_deep_images_train_as_they_look(tmp_path: Path) -> None:
    """The path of the complaint: a folder of 16-bit scans, of which every image was white, and of floats, all black."""
    ramp = np.tile(np.linspace(0, 1, 32), (32, 1))
    for part in ("train", "val"):
        write(tmp_path / part / "ints" / "0.png", saved(Image.fromarray((ramp * 65535).astype(np.uint16)), "PNG"))
        write(tmp_path / part / "floats" / "0.tif", saved(Image.fromarray(ramp.astype(np.float32)), "TIFF"))
    for mean, channels in (((0.5,) * 3, 3), ((0.5,), 1)):
        module = ready(FolderDataModule(root=tmp_path, image_size=32, mean=mean, std=mean, num_workers=0))
        images, _ = next(iter(module.test_dataloader()))
        expected = torch.tensor(ramp * 255).float().expand(channels, 32, 32)
        for image in images:
            torch.testing.assert_close(pixels_of(module, image), expected, atol=TOLERANCE, rtol=0)


def test_smaller_copies_are_upright_deep_and_on_white(tmp_path: Path) -> None:
    """JPEG has neither EXIF of the original, nor 16 bits, nor transparency: the copies look as the originals do."""
    big = np.kron(COLOURS, np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "in" / "turned.jpg", saved(Image.fromarray(big), "JPEG", exif=exif, quality=100))
    ramp = np.tile(np.linspace(0, 65535, 128), (96, 1)).astype(np.uint16)
    write(tmp_path / "in" / "deep.png", saved(Image.fromarray(ramp), "PNG"))
    write(tmp_path / "in" / "clear.png", saved(Image.new("RGBA", (128, 96), (0, 0, 0, 0)), "PNG"))
    assert resize([str(tmp_path / "in"), str(tmp_path / "out"), "--size", "48", "--workers", "1"]) == 0
    with Image.open(tmp_path / "out" / "48" / "turned.JPEG") as image:
        assert image.size == (48, 64)
        expected = Image.fromarray(np.rot90(big, -1)).resize(image.size, Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean() < 20
    with Image.open(tmp_path / "out" / "48" / "deep.JPEG") as image:
        np.testing.assert_allclose(np.asarray(image)[24, :, 0], np.linspace(0, 255, 64), atol=6)
    with Image.open(tmp_path / "out" / "48" / "clear.JPEG") as image:
        assert np.asarray(image).min() == 255


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_image_or_several_is_refused_by_name(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make, reason = UNREADABLE[kind]
    path = write(tmp_path / "in" / "cat" / "bad.png", make())
    with pytest.raises(
        UnreadableImageError, match=rf"{path} cannot be read as an image \(.*{reason}.*\); replace it"
    ) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnreadableImageError, match=r"^bad in a\.zip cannot be read"):
        read_image(path.read_bytes(), name="bad in a.zip")
    assert resize([str(tmp_path / "in"), str(tmp_path / "out"), "--size", "4", "--workers", "1"]) == 1
    assert str(path) in capsys.readouterr().err.replace("\n", "")
    assert not list((tmp_path / "out").rglob("*.JPEG"))


def first_batch(loader: DataLoader) -> object:
    """The first batch, or its error, without loader processes that wait in the error's traceback."""
    batches = iter(loader)
    try:
        return next(batches)
    finally:
        if loader.num_workers:
            batches._shutdown_workers()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["truncated jpeg", "empty", "bomb"])
def test_loader_processes_name_the_file_in_one_line(kind: str, workers: int, tmp_path: Path) -> None:
    make, reason = UNREADABLE[kind]
    for part in ("train", "val"):
        path = write(tmp_path / part / "cat" / "bad.jpg", make())
    module = ready(FolderDataModule(root=tmp_path, num_workers=workers))
    with pytest.raises(UnreadableImageError, match=rf"^{path} cannot be read as an image \([^\n]*{reason}[^\n]*$"):
        first_batch(module.test_dataloader())


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["truncated jpeg", "empty", "bomb"])
def test_an_image_in_a_zip_is_named_with_the_archive(kind: str, workers: int, tmp_path: Path) -> None:
    make, reason = UNREADABLE[kind]
    root = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    write(root / "val" / "images" / "val_0.JPEG", make())
    archive = tmp_path / "tiny.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in root.rglob("*.*"):
            file.write(path, path.relative_to(tmp_path))
    module = ready(TinyImageNetDataModule(root=archive, num_workers=workers))
    member = rf"tiny-imagenet-200/val/images/val_0\.JPEG in {archive}"
    with pytest.raises(UnreadableImageError, match=rf"^{member} cannot be read as an image \([^\n]*{reason}[^\n]*$"):
        first_batch(module.test_dataloader())


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root everything may be read: the system's refusal is made up."""
    path = write(tmp_path / "a.png", saved(Image.fromarray(COLOURS), "PNG"))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(UnreadableImageError, match=r"a\.png cannot be read as an image \(Permission denied\)"):
        read_image(path)


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UnreadableImageError, match=r"gone\.png cannot be read as an image \(No such file or directory\)"
    ):
        read_image(tmp_path / "gone.png")


def test_turned_jpegs_are_upright_however_small_they_are_decoded() -> None:
    big = Image.fromarray(np.kron(COLOURS, np.ones((64, 64, 1), np.uint8)))
    for orientation, expected in TURNED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = read_image(saved(big, "JPEG", exif=exif), least_side=48)
        assert image.size[0] < big.size[0]
        small = image.resize(expected.shape[1::-1], Image.Resampling.BOX)
        assert np.abs(np.asarray(small, float) - expected).mean() < 6, orientation


def test_an_error_reads_as_itself_whatever_torch_wraps_around_it() -> None:
    wrapped = (
        "Caught UnreadableImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "a.py", line 1\nOSError: x\n\nThe above exception was the direct cause\n\n'
        "experiments.data.errors.UnreadableImageError: a.png cannot be read\n"
    )
    assert str(UnreadableImageError(wrapped)) == "a.png cannot be read"
    assert str(DatasetError("two\nlines")) == "two lines"


def test_reading_leaves_no_file_open(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{number}.png", make())
        for number, (make, _) in enumerate([*READABLE.values(), *UNREADABLE.values()])
    ]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ResourceWarning)
        for path in paths:
            with contextlib.suppress(UnreadableImageError):
                read_image(path)
        gc.collect()
    assert not [each for each in said if issubclass(each.category, ResourceWarning)]


def test_bytes_and_files_are_read_alike() -> None:
    content = turned(6, "PNG")
    assert np.array_equal(np.asarray(read_image(content)), np.rot90(COLOURS, -1))
    assert Image.open(io.BytesIO(content)).size == (8, 6)


@pytest.mark.parametrize("name", [b"two  blanks.png", b"not utf-8 \xff.png"])
def test_odd_names_can_be_printed(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    try:
        path.write_bytes(b"")
    except OSError:
        pytest.skip("the file system has no such names")
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    str(caught.value).encode()
    assert name.decode(errors="backslashreplace").replace("\\x", "\\udc") in str(caught.value)
