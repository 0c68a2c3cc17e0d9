"""Tiny-ImageNet as it should not be: each time one sentence that names what is wrong, with the advice that helps."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from layouts import WNIDS, ready, write_image, write_tiny_imagenet

from experiments.data import MissingDataError, TinyImageNetDataModule, tiny_imagenet
from experiments.data.errors import DatasetError

Damage = Callable[[Path], None]
TOP = "tiny-imagenet-200"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_imagenet(tmp_path / TOP)


def pack(folder: Path, damage: Callable[[zipfile.ZipFile], None] = lambda file: None, top: str = TOP) -> Path:
    archive = folder.parent / "packed" / f"{TOP}.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, Path(top, path.relative_to(folder)))
        damage(file)
    return archive


def use(root: Path, *, read: bool) -> None:
    """As a run does, which asks for the classes first."""
    module = TinyImageNetDataModule(root=root, num_workers=0)
    _ = module.class_names
    module.setup()
    if read:
        list(module.test_dataloader())


def complaint(root: Path, *, read: bool = False) -> str:
    """The one line that the user is told."""
    with pytest.raises(DatasetError) as caught:
        use(root, read=read)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message or str(root.parent) in message
    return message


@pytest.mark.parametrize("share", [0.99, 0.5, 0.01])
def test_a_half_downloaded_zip(share: float, folder: Path) -> None:
    archive = pack(folder)
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    for root in (archive, archive.parent):
        assert "is no complete zip" in complaint(root)
        assert "its download was cut off; remove it and download it again" in complaint(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "(0 bytes) is no"),
        (b"<html>404</html>", "is no complete zip"),
        (b"\x1f\x8b" + bytes(500), "is no complete zip"),
    ],
)
def test_what_is_no_zip(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / f"{TOP}.zip").write_bytes(content)
    assert message in complaint(tmp_path / f"{TOP}.zip")
    assert message in complaint(tmp_path)


def test_an_encrypted_zip(folder: Path) -> None:
    """Python cannot encrypt: the bit that says so is set by hand, in the directory and at each file."""
    archive = pack(folder)
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = content.find(signature)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(signature, place + 4)
    archive.write_bytes(content)
    message = complaint(archive)
    assert "is encrypted" in message
    assert "extract it by hand, and let data.root name the folder" in message


def test_a_zip_in_which_bytes_are_wrong(folder: Path) -> None:
    archive = pack(folder)
    with zipfile.ZipFile(archive) as file:
        place = file.getinfo(f"{TOP}/val/images/val_0.JPEG").header_offset + 200
    content = bytearray(archive.read_bytes())
    content[place] ^= 0xFF
    archive.write_bytes(content)
    message = complaint(archive, read=True)
    assert f"{TOP}/val/images/val_0.JPEG in {archive} cannot be read (Bad CRC-32" in message
    assert "incomplete or damaged; download it again" in message


@pytest.mark.parametrize("name", ["../outside.JPEG", "/etc/outside", "a..b.txt", "tiny..JPEG", "c:d/..."])
def test_odd_names_in_a_zip_are_harmless(name: str, folder: Path) -> None:
    """Nothing is extracted."""
    archive = pack(folder, lambda file: file.writestr(zipfile.ZipInfo(name), b"x"))
    assert len(ready(TinyImageNetDataModule(root=archive)).split("train")) == 12


def test_a_file_that_unpacks_to_more_than_any_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(folder)
    monkeypatch.setattr(tiny_imagenet, "MAX_MEMBER_BYTES", 500)
    message = complaint(archive, read=True)
    assert f"val_0.JPEG in {archive} cannot be read (it unpacks to" in message
    assert "bytes, more than any image" in message


def remove(*names: str) -> Damage:
    def change(root: Path) -> None:
        for name in names:
            for path in sorted(root.glob(name), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()

    return change


def rewrite(name: str, content: str) -> Damage:
    return lambda root: (root / name).write_text(content) and None


DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "no validation part": (remove("val/**/*"), "val/val_annotations.txt", "again"),
    "no annotations": (remove("val/val_annotations.txt"), "val/val_annotations.txt", "again"),
    "no validation images": (remove("val/images/*"), "val/images/ lacks 2 of 2 images (val/images/val_0.JPEG", "again"),
    "a validation image less": (remove("val/images/val_1.JPEG"), "lacks 1 of 2 images (val/images/val_1.JPEG)", "again"),
    "no training images": (remove("train/**/*.JPEG"), "train/ lacks the images of 3 of 3 classes (n01, n02, n03)", "again"),
    "a class less": (remove("train/n02/**/*"), "train/ lacks the images of 1 of 3 classes (n02)", "again"),
    "a class too many": (
        lambda root: write_image(root / "train" / "n77" / "images" / "0.JPEG", 1), "the classes 'n77'", "official"),
    "annotations of another class": (
        rewrite("val/val_annotations.txt", "val_0.JPEG\tn88\t0\n"), "does not name the classes 'n88'", "official"),
    "annotations without classes": (rewrite("val/val_annotations.txt", "val_0.JPEG\n"), "the classes ''", "official"),
    "annotations that lead elsewhere": (
        rewrite("val/val_annotations.txt", "../../secret.JPEG\tn01\n"), "(val/images/../../secret.JPEG)", "official"),
    "no words": (remove("words.txt"), "words.txt", "again"),
    "binary words": (lambda root: (root / "words.txt").write_bytes(b"\xff\xfe\x00") and None, "is no text", "again"),
    "empty list of classes": (rewrite("wnids.txt", ""), "lacks the images of 0 of 0 classes", "again"),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", DAMAGES)
def test_an_incomplete_data_set(kind: str, packed: bool, folder: Path) -> None:
    damage, message, advice = DAMAGES[kind]
    damage(folder)
    root = pack(folder) if packed else folder
    with pytest.raises(DatasetError) as caught:
        use(root, read=False)
    told = str(caught.value)
    assert message in told
    assert advice in told
    assert str(root) in told
    assert "\n" not in told


def test_another_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme.txt", "x")
    assert "holds no wnids.txt: another archive, or an incomplete one" in complaint(tmp_path / "other.zip")


def test_a_half_extracted_folder(folder: Path) -> None:
    (folder / "wnids.txt").unlink()
    with pytest.raises(MissingDataError, match=r"has train/ but no wnids\.txt: it was not completely extracted"):
        TinyImageNetDataModule(root=folder).setup()


@pytest.mark.parametrize("packed", [False, True])
def test_what_file_managers_leave_behind_is_no_image(packed: bool, folder: Path) -> None:
    for name in ("train/.ipynb_checkpoints/images/0.JPEG", "train/n01/images/._n01_0.JPEG", "train/__MACOSX/x/1.JPEG",
                 "train/n02/.ipynb_checkpoints/n02_1-checkpoint.JPEG", "train/.DS_Store"):  # fmt: skip
        write_image(folder / name, 0) if name.endswith("JPEG") else (folder / name).write_bytes(b"x")
    root = pack(folder) if packed else folder
    module = ready(TinyImageNetDataModule(root=root))
    assert sorted(module.wnids) == sorted(WNIDS)
    assert len(module.split("train")) == 12


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_a_broken_link_among_the_images_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "train" / "n01" / "images" / "gone.JPEG").symlink_to("nowhere.JPEG")
    assert len(ready(TinyImageNetDataModule(root=folder)).split("train")) == 12
    assert "left out 1 files" in caplog.text
    assert "n01/images/gone.JPEG" in caplog.text


def test_a_zip_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root everything may be read: the system's refusal is made up."""
    archive = pack(folder)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(archive))

    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    assert "is no complete zip ([Errno 13] Permission denied" in complaint(archive)
