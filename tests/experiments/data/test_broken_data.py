"""The command line on data that are not as they should be: one sentence and exit code 1, without a traceback."""

from pathlib import Path

import pytest
from command_line import launch
from layouts import write_folders
from odd_images import UNREADABLE, write

SMALL = ("data=imagefolder", "model=preactresnet18", "model.width=4", "epochs=1", "data.batch_size=2", "trainer=cpu")


def said(root: Path, run: Path, *overrides: str, module: str = "train") -> str:
    result = launch(module, *SMALL, f"data.root={root}", f"paths.run_dir={run}", *overrides)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    # A console wraps lines.
    return " ".join((result.stdout + result.stderr).split())


def test_a_folder_without_classes_ends_in_a_sentence(tmp_path: Path) -> None:
    write_folders(tmp_path / "data", ("val",))
    write(tmp_path / "data" / "train" / "0.jpg", b"x")
    told = said(tmp_path / "data", tmp_path / "run")
    assert "train has no class folders; it must hold one folder per class with images in it" in told


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_image_ends_a_run_in_a_sentence(workers: int, tmp_path: Path) -> None:
    write_folders(tmp_path / "data", ("train", "val"))
    path = write(tmp_path / "data" / "train" / "dog" / "9.jpg", UNREADABLE["truncated jpeg"][0]())
    told = said(tmp_path / "data", tmp_path / "run", f"data.num_workers={workers}")
    assert f"{path} cannot be read as an image (" in told
    assert "replace it or take it out" in told
