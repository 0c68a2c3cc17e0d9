"""Tiny-ImageNet as it should not be: each time one message that names what is wrong, with the advice that helps."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from layouts import WNIDS, ready, write_image, write_tiny_imagenet

from experiments.common import UserError
from experiments.data import MissingDataError, TinyImageNetDataModule

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


def use(root: Path) -> TinyImageNetDataModule:
    """As a run does, which asks for the classes first."""
    module = TinyImageNetDataModule(root=root, num_workers=0, download=False)
    module.prepare_data()
    _ = module.class_names
    module.setup()
    return module


def complaint(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        use(root)
    message = str(caught.value)
    assert str(root) in message or str(root.parent) in message
    return message


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\x03\x04" + bytes(500)], ids=["empty", "html", "cut short"]
)
def test_what_is_no_zip_is_named_and_kept(content: bytes, tmp_path: Path) -> None:
    archive = tmp_path / f"{TOP}.zip"
    archive.write_bytes(content)
    for root in (archive, tmp_path):
        message = complaint(root)
        assert f"extracting {archive} failed (File is not a zip file)" in message
        assert f"by hand at {archive} (in place of a broken one)" in message
    assert archive.read_bytes() == content


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
    assert "is encrypted" in complaint(archive)


def test_a_zip_in_which_bytes_are_wrong(folder: Path) -> None:
    archive = pack(folder)
    with zipfile.ZipFile(archive) as file:
        place = file.getinfo(f"{TOP}/val/images/val_0.JPEG").header_offset + 200
    content = bytearray(archive.read_bytes())
    content[place] ^= 0xFF
    archive.write_bytes(content)
    message = complaint(archive)
    assert f"extracting {archive} failed (Bad CRC-32 for file" in message
    assert "val_0.JPEG" in message


@pytest.mark.parametrize("name", ["outside.JPEG", "../outside.JPEG", "/etc/outside", f"{TOP}/../../outside.JPEG"])
def test_nothing_is_extracted_out_of_the_folder(name: str, folder: Path) -> None:
    archive = pack(folder, lambda file: file.writestr(zipfile.ZipInfo(name), b"x"))
    assert len(use(archive).split("train")) == 12
    assert sorted(path.name for path in archive.parent.iterdir() if not path.name.startswith(".")) == [
        TOP,
        archive.name,
    ]
    assert not (folder.parent / "outside.JPEG").exists()


def remove(*names: str) -> Damage:
    def change(root: Path) -> None:
        for name in names:
            for path in sorted(root.glob(name), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()

    return change


def rewrite(name: str, content: str) -> Damage:
    return lambda root: (root / name).write_text(content) and None


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no annotations": (remove("val/val_annotations.txt"), "val/val_annotations.txt"),
    "no validation images": (remove("val/images/*"), "/val"),
    "a validation image less": (remove("val/images/val_1.JPEG"), "names ['val_1.JPEG'], which are not there"),
    "no training images": (remove("train/**/*.JPEG"), "class folders without images: ['n01', 'n02', 'n03']"),
    "a class less": (remove("train/n02/**/*", "train/n02"), "it lacks ['n02']"),
    "a class too many": (lambda root: write_image(root / "train" / "n77" / "0.JPEG", 1), "has ['n77'] besides"),
    "annotations of another class": (rewrite("val/val_annotations.txt", "val_0.JPEG\tn88\t0\n"), "names ['n88']"),
    "annotations without classes": (rewrite("val/val_annotations.txt", "val_0.JPEG\n"), "names ['']"),
    "annotations that lead elsewhere": (
        rewrite("val/val_annotations.txt", "../../secret.JPEG\tn01\n"), "names ['../../secret.JPEG']"),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", DAMAGES)
def test_an_incomplete_data_set(kind: str, packed: bool, folder: Path) -> None:
    damage, message = DAMAGES[kind]
    damage(folder)
    assert message in complaint(pack(folder) if packed else folder)


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt"])
def test_without_its_lists_it_is_not_there_and_extracted_again(name: str, folder: Path) -> None:
    archive = pack(folder)
    (folder / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MissingDataError, match=name):
        use(folder)
    (folder / name).unlink()
    assert "Searched paths" in complaint(folder)
    archive.rename(folder.with_suffix(".zip"))
    assert use(folder.parent).class_names == ["goldfish", "tree frog", "ox"]


def test_another_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme.txt", "x")
    assert "failed (it lacks files of the data set)" in complaint(tmp_path / "other.zip")


def test_a_killed_extraction_is_done_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(folder)
    extract, done = zipfile.ZipFile.extract, []

    def die(self: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> str:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(member.filename)
        return extract(self, member, path)

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extract", die)
        with pytest.raises(KeyboardInterrupt):
            use(archive)
    with pytest.raises(MissingDataError):
        _ = TinyImageNetDataModule(root=archive).class_names
    assert len(use(archive).split("train")) == 12


@pytest.mark.parametrize("packed", [False, True])
def test_what_file_managers_leave_behind_is_no_image(packed: bool, folder: Path) -> None:
    for name in ("train/.ipynb_checkpoints/images/0.JPEG", "train/n01/images/._n01_0.JPEG", "train/__MACOSX/x/1.JPEG",
                 "train/n02/.ipynb_checkpoints/n02_1-checkpoint.JPEG", "train/.DS_Store"):  # fmt: skip
        write_image(folder / name, 0) if name.endswith("JPEG") else (folder / name).write_bytes(b"x")
    module = ready(TinyImageNetDataModule(root=pack(folder) if packed else folder))
    assert module.split("train").source.classes == sorted(WNIDS)  # type: ignore[attr-defined]
    assert len(module.split("train")) == 12
