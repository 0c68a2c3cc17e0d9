"""Files that are whole at any moment."""

import errno
import json
import os
from pathlib import Path

import pytest

from experiments.common import atomic_files
from experiments.common.atomic_files import explained, remove_drafts, replacing, write_json, write_text
from experiments.common.errors import UnwritableError


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_and_a_newer_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    for content in ({"a": 1}, {"b": "größer"}):
        write_json(path, content)
        assert json.loads(path.read_text(encoding="utf-8")) == content
    assert names_in(path.parent) == ["a.json"]
    assert not path.stat().st_mode & 0o111


@pytest.mark.parametrize("fails_in", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_one_sentence(
    fails_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fails_in == "fsync":
        monkeypatch.setattr(atomic_files.os, "fsync", full)
    else:
        monkeypatch.setattr(Path, {"write": "open", "replace": "replace"}[fails_in], full)
    with pytest.raises(UnwritableError, match=rf"^{path} cannot be written: No space left on device$") as raised:
        write_text(path, "new")
    monkeypatch.undo()
    assert raised.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_an_error_of_the_writer_is_passed_on_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write_half() -> None:
        with replacing(path) as draft:
            draft.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert (path.read_text(), names_in(tmp_path)) == ("old", ["a.txt"])


def test_a_link_is_followed_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    target, link = tmp_path / "there" / "a.txt", tmp_path / "link.txt"
    link.symlink_to(target)
    write_text(link, "through")
    assert link.is_symlink()
    assert target.read_text() == "through"
    read, write = os.pipe()
    write_text(Path(f"/dev/fd/{write}"), "piped")
    os.close(write)
    with os.fdopen(read) as stream:
        assert stream.read() == "piped"


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UnwritableError, match=r"a\.txt cannot be written: Is a directory"):
        write_text(tmp_path / "a.txt", "text")
    assert names_in(tmp_path) == ["a.txt"]


def test_an_explained_error_is_explained_once(tmp_path: Path) -> None:
    with pytest.raises(UnwritableError, match=r"^inner cannot"), explained(Path("outer")), explained(Path("inner")):
        raise OSError(errno.EROFS, "Read-only file system")


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    for name in (".a.txt.0123abcd.part", "a.txt", ".hidden"):
        (tmp_path / name).touch()
    remove_drafts(tmp_path)
    assert names_in(tmp_path) == [".hidden", "a.txt"]
