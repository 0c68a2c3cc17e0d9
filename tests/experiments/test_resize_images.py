"""Smaller copies of image folders."""

import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
from layouts import write_image
from PIL import Image

from experiments.resize_images import main

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-samples.zip"


def write_tree(root: Path) -> Path:
    write_image(root / "train" / "cat" / "wide.JPEG", 50, (400, 200))
    write_image(root / "train" / "dog" / "gray.jpg", 90, (200, 300), mode="L")
    write_image(root / "val" / "cat" / "small.JPEG", 130, (40, 30))
    (root / "val" / "dog").mkdir(parents=True)
    Image.new("RGBA", (100, 100), (170, 170, 170, 255)).save(root / "val" / "dog" / "png.JPEG", format="PNG")
    Image.new("CMYK", (100, 120), (0, 0, 0, 0)).save(root / "val" / "dog" / "cmyk.jpeg", format="JPEG")
    (root / "notes.txt").write_text("no image")
    return root


@pytest.mark.parametrize("workers", [1, 2])
def test_copies_of_every_size_keep_folders_and_proportion(workers: int, tmp_path: Path) -> None:
    source, target = write_tree(tmp_path / "source"), tmp_path / "copies"
    assert main([str(source), str(target), "--size", "50", "100", "--workers", str(workers)]) == 0
    sizes = {}
    for path in sorted(target.rglob("*.*")):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            sizes[str(path.relative_to(target))] = (image.size, round(np.asarray(image).mean(), -1))
    assert sizes == {
        "50/train/cat/wide.JPEG": ((100, 50), 50), "100/train/cat/wide.JPEG": ((200, 100), 50),
        "50/train/dog/gray.JPEG": ((50, 75), 90), "100/train/dog/gray.JPEG": ((100, 150), 90),
        "50/val/cat/small.JPEG": ((40, 30), 130), "100/val/cat/small.JPEG": ((40, 30), 130),
        "50/val/dog/png.JPEG": ((50, 50), 170), "100/val/dog/png.JPEG": ((100, 100), 170),
        "50/val/dog/cmyk.JPEG": ((50, 60), 260), "100/val/dog/cmyk.JPEG": ((100, 120), 260),
    }  # fmt: skip


def test_copies_that_exist_are_left_alone_and_missing_ones_are_made(tmp_path: Path) -> None:
    source, target = write_tree(tmp_path / "source"), tmp_path / "copies"
    main([str(source), str(target), "--size", "50", "--workers", "1"])
    kept, gone = target / "50" / "train" / "cat" / "wide.JPEG", target / "50" / "val" / "cat" / "small.JPEG"
    kept.write_text("mine")
    gone.unlink()
    assert main([str(source), str(target), "--size", "50", "--workers", "1"]) == 0
    assert kept.read_text() == "mine"
    assert gone.is_file()


def test_images_of_one_stem_do_not_take_each_other_s_place(tmp_path: Path) -> None:
    for name, value in (("a.jpg", 40), ("a.png", 200), ("b.jpg", 90)):
        write_image(tmp_path / "source" / "train" / "cat" / name, value, (80, 80))
    assert main([str(tmp_path / "source"), str(tmp_path / "copies"), "--size", "20", "--workers", "1"]) == 0
    folder = tmp_path / "copies" / "20" / "train" / "cat"
    means = {path.name: round(np.asarray(Image.open(path)).mean(), -1) for path in folder.iterdir()}
    assert means == {"a.jpg.JPEG": 40, "a.png.JPEG": 200, "b.JPEG": 90}


def test_ctrl_c_ends_it_between_images_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_tree(tmp_path / "source"), tmp_path / "copies"
    command = [str(source), str(target), "--size", "50", "--workers", "1"]
    save = Image.Image.save

    def interrupted(self: Image.Image, path: Path, **settings: object) -> None:
        if "small" in path.name:
            signal.raise_signal(signal.SIGINT)
        save(self, path, **settings)

    # A process that runs tests beside others may ignore the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "save", interrupted)
            assert main(command) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "Run the same command again" in capsys.readouterr().err
    assert 0 < len(list(target.rglob("*.JPEG"))) < 5
    assert main(command) == 0
    assert len(list(target.rglob("*.JPEG"))) == 5


def test_broken_images_are_named_and_the_others_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write_tree(tmp_path / "source"), tmp_path / "copies"
    broken = [source / "train" / "cat" / "text.jpg", source / "train" / "dog" / "cut.JPEG"]
    broken[0].write_text("not an image")
    broken[1].write_bytes((source / "train" / "dog" / "gray.jpg").read_bytes()[:300])
    assert main([str(source), str(target), "--size", "50", "--workers", "2"]) == 1
    printed = capsys.readouterr().err
    assert all(str(path) in printed for path in broken)
    assert "5 images are in" in printed
    # Nothing half-written stays.
    assert len([path for path in target.rglob("*") if path.is_file()]) == 5


def test_links_that_lead_nowhere_are_named_and_leftovers_are_no_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_tree(tmp_path / "source"), tmp_path / "copies"
    (source / "train" / "cat" / "gone.jpg").symlink_to("nowhere.jpg")
    write_image(source / "train" / ".ipynb_checkpoints" / "0.jpg", 1)
    write_image(source / "train" / "cat" / "._wide.JPEG", 1)
    assert main([str(source), str(target), "--size", "50", "--workers", "1"]) == 1
    assert "gone.jpg cannot be read as an image (No such file or directory)" in " ".join(
        capsys.readouterr().err.split()
    )
    assert len([path for path in target.rglob("*") if path.is_file()]) == 5


def test_a_full_disk_is_no_broken_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_tree(tmp_path / "source"), tmp_path / "copies"

    def full(self: Image.Image, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert main([str(source), str(target), "--size", "50", "--workers", "1"]) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert ".JPEG cannot be written: No space left on device" in printed
    assert "left out" not in printed
    assert not [path for path in target.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}/absent", "{root}/copies", "--size", "50"], "SOURCE must be a folder of images"),
        (["{root}", "{root}/copies", "--size", "50"], "TARGET must be outside SOURCE"),
        (["{root}", "/tmp/elsewhere", "--size", "0"], "argument --size: invalid PositiveInt value: '0'"),
        (["{root}", "/tmp/elsewhere", "--size", "50", "--quality", "0"], "argument --quality: invalid choice: 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([argument.format(root=tmp_path) for argument in arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path.parent / "copies"), "--size", "50"]) == 1
    assert "There are no images below" in capsys.readouterr().err


@pytest.mark.skipif(not SAMPLES.exists(), reason="needs ../shared/data/imagenet-samples.zip")
def test_real_photographs_look_like_pillow_s_own_thumbnails(tmp_path: Path) -> None:
    """The decoder's shortcut must not show: against a plain resize of the whole image, 2 % of the range on the mean."""
    with zipfile.ZipFile(SAMPLES) as archive:
        names = [name for name in archive.namelist() if name.endswith((".JPEG", ".jpg"))][:6]
        archive.extractall(tmp_path / "source", names)
    assert main([str(tmp_path / "source"), str(tmp_path / "copies"), "--size", "64", "--workers", "2"]) == 0
    for name in names:
        copy = (tmp_path / "copies" / "64" / name).with_suffix(".JPEG")
        with Image.open(tmp_path / "source" / name) as original, Image.open(copy) as made:
            plain = original.convert("RGB").resize(made.size, Image.Resampling.LANCZOS)
            difference = np.abs(np.asarray(plain, dtype=float) - np.asarray(made, dtype=float))
        assert min(made.size) == 64
        assert difference.mean() < 5.1
