"""The download code against a server that does what servers do: break off, hang, crawl, refuse, and serve something else."""

import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archive_server import ArchiveServer, publish_cifar, publish_tiny_imagenet, serve
from filelock import FileLock
from rich.filesize import decimal

from experiments.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    ImageDataModule,
    MissingDataError,
    TinyImageNetDataModule,
    download,
)
from experiments.data.errors import missing_data


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.01)
    with serve() as running:
        yield running


@pytest.fixture
def cifar(server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return publish_cifar(server, CIFAR100DataModule, tmp_path / "official", monkeypatch)


def fresh(tmp_path: Path, kind: type[CIFAR10DataModule] = CIFAR100DataModule) -> CIFAR10DataModule:
    return kind(root=tmp_path / "not" / "there yet", batch_size=2, num_workers=0)


def trains(module: ImageDataModule) -> None:
    """As the command does it: prepared, asked for the classes, then set up."""
    module.prepare_data()
    assert module.num_classes == len(module.class_names)
    module.setup("fit")
    images, _ = next(iter(module.train_dataloader()))
    assert images.shape[1] == 3


def refusal(module: ImageDataModule) -> str:
    with pytest.raises(MissingDataError) as caught:
        module.prepare_data()
    message = str(caught.value)
    # One line that says from where, to where and what else can be done.
    assert "\n" not in message
    for part in ("http://127.0.0.1", str(module.root.absolute()), "by hand at", "data.root="):  # type: ignore[attr-defined]
        assert part in message
    return message


@pytest.mark.parametrize("kind", [CIFAR10DataModule, CIFAR100DataModule])
def test_an_empty_folder_is_filled_once(
    kind: type[CIFAR10DataModule], server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = publish_cifar(server, kind, tmp_path / "official", monkeypatch)
    module = fresh(tmp_path, kind)
    trains(module)
    trains(fresh(tmp_path, kind))
    assert server.requests == [(name, None)]
    assert not list(module.root.glob("*.part"))


@pytest.mark.parametrize("root", ["data", "data/tiny-imagenet-200.zip", "data/named otherwise.zip"])
def test_tiny_imagenet_is_downloaded_where_it_is_looked_for(
    root: str, server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = publish_tiny_imagenet(server, tmp_path / "official", monkeypatch)
    for _ in range(2):
        trains(TinyImageNetDataModule(root=tmp_path / root, batch_size=2, num_workers=0))
    assert server.requests == [(name, None)]


def test_a_zip_that_was_named_is_never_replaced(
    server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_tiny_imagenet(server, tmp_path / "official", monkeypatch)
    mine = tmp_path / "holiday.zip"
    mine.write_bytes(b"not a zip")
    module = TinyImageNetDataModule(root=mine)
    with pytest.raises(MissingDataError, match=r"extracting .*holiday\.zip failed \(File is not a zip file\)"):
        trains(module)
    assert mine.read_bytes() == b"not a zip"
    assert not server.requests


def test_a_broken_connection_is_continued(cifar: str, server: ArchiveServer, tmp_path: Path) -> None:
    # Also a server that is away for a moment, once something has arrived.
    server.faults = [400, "503", 300]
    trains(fresh(tmp_path))
    assert [wanted for _, wanted in server.requests] == [None, "bytes=400-", "bytes=400-", "bytes=700-"]


def test_the_next_start_continues_what_an_interrupted_one_left(
    cifar: str, server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(download, "MAX_IDLE", -1)
    server.faults = [1000]
    message = refusal(fresh(tmp_path))
    assert "the connection ended after 1.0 kB of" in message
    assert "Start again, which resumes a download" in message
    trains(fresh(tmp_path))
    assert server.requests[1:] == [(cifar, "bytes=1000-")]
    assert "resuming at 1.0 kB" in caplog.text


def test_ctrl_c_keeps_what_has_arrived(
    cifar: str, server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "CHUNK", 700)
        patch.setattr(download.Progress, "update", press)
        with pytest.raises(KeyboardInterrupt):
            fresh(tmp_path).prepare_data()
    trains(fresh(tmp_path))
    assert server.requests[-1] == (cifar, "bytes=700-")


def test_a_server_that_cannot_continue_is_asked_anew(
    cifar: str, server: ArchiveServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.ranges, server.faults = False, [1000]
    trains(fresh(tmp_path))
    assert caplog.text.count("downloading: ") == 2


@pytest.mark.parametrize("left", ["something else", "longer", "complete"])
def test_what_is_left_may_be_anything(left: str, cifar: str, server: ArchiveServer, tmp_path: Path) -> None:
    module, content = fresh(tmp_path), server.files[cifar]
    module.root.mkdir(parents=True)
    part = module.root / f"{cifar}.part"
    part.write_bytes({"something else": b"x" * 900, "longer": b"x" * len(content) * 2, "complete": content}[left])
    if left != "complete":
        assert "have another MD5 checksum than" in refusal(module)
        assert not part.exists()
    trains(module)
    assert [wanted for _, wanted in server.requests if wanted is None] == ([] if left == "complete" else [None])


@pytest.mark.parametrize("mine", [False, True], ids=["cut short", "another file"])
def test_a_broken_archive_is_named_and_kept(mine: bool, cifar: str, server: ArchiveServer, tmp_path: Path) -> None:
    module = fresh(tmp_path)
    module.root.mkdir(parents=True)
    found = b"my own file" if mine else server.files[cifar][:900]
    (module.root / cifar).write_bytes(found)
    message = refusal(module)
    assert f"extracting {module.root / cifar} failed" in message
    assert "(in place of a broken one)" in message
    assert (module.root / cifar).read_bytes() == found
    assert not server.requests


def test_a_wrong_checksum_says_so_and_is_not_kept(cifar: str, server: ArchiveServer, tmp_path: Path) -> None:
    good, server.files[cifar] = server.files[cifar], b"<html>log in to this network first</html>"
    message = refusal(fresh(tmp_path))
    assert f"the 41 bytes that arrived have another MD5 checksum than {CIFAR100DataModule.dataset.tgz_md5}" in message
    server.files[cifar] = good
    trains(fresh(tmp_path))


def test_a_server_that_refuses_or_is_not_there(
    cifar: str, server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults = ["404", "503"]
    assert "failed (HTTP Error 404: Not Found)" in refusal(fresh(tmp_path))
    assert "failed (HTTP Error 503: Service Unavailable)" in refusal(fresh(tmp_path))
    monkeypatch.setattr(CIFAR100DataModule.dataset, "url", "http://127.0.0.1:1/cifar-100-python.tar.gz")
    assert "Connection refused" in refusal(fresh(tmp_path))
    assert len(server.requests) == 2


def test_a_server_that_hangs(
    cifar: str, server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    server.faults = ["stall"] + ["503"] * (download.MAX_IDLE + 1)
    assert "HTTP Error 503" in refusal(fresh(tmp_path))
    server.faults = ["stall"]
    monkeypatch.setattr(download, "MAX_IDLE", -1)
    assert "timed out" in refusal(fresh(tmp_path))
    trains(fresh(tmp_path))


def test_two_at_once_download_once(
    cifar: str, server: ArchiveServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.gate.clear()
    modules = [fresh(tmp_path) for _ in range(3)]
    threads = [threading.Thread(target=module.prepare_data) for module in modules]
    for thread in threads:
        thread.start()
    # The server answers when all others wait.
    while caplog.text.count("waiting for another process that downloads") < 2:
        assert all(thread.is_alive() for thread in threads)
        time.sleep(0.01)
    server.gate.set()
    for thread in threads:
        thread.join()
    assert server.requests == [(cifar, None)]
    for module in modules:
        assert module.num_classes == len(module.class_names)


def test_a_lock_file_left_behind_holds_nobody_up(cifar: str, tmp_path: Path) -> None:
    module = fresh(tmp_path)
    module.root.mkdir(parents=True)
    (module.root / f".{cifar}.lock").write_text("of a process that was killed")
    trains(module)


def test_the_lock_that_is_waited_for_is_named(cifar: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    module = fresh(tmp_path)
    module.root.mkdir(parents=True)
    lock = module.root / f".{cifar}.lock"
    with FileLock(lock):
        thread = threading.Thread(target=module.prepare_data)
        thread.start()
        while f"and holds {lock}" not in caplog.text:
            assert thread.is_alive()
            time.sleep(0.01)
    thread.join()
    assert module.num_classes == len(module.class_names)


def test_a_folder_that_cannot_be_written(cifar: str, server: ArchiveServer, tmp_path: Path) -> None:
    (tmp_path / "not").write_text("a file where the folder should be")
    assert "Not a directory" in refusal(fresh(tmp_path))
    assert not server.requests


def test_a_full_disk_is_no_traceback(cifar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for kind, name, step in ((download.Path, "open", "downloading"), (CIFAR10DataModule, "extract", "extracting")):
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, refuse)
            message = refusal(fresh(tmp_path))
        assert f"{step} " in message
        assert "failed ([Errno 28] No space left on device)" in message
    trains(fresh(tmp_path))


@pytest.mark.parametrize("lost", ["meta", "train", "test"])
@pytest.mark.parametrize("how", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["gone", "empty"])
def test_files_that_were_damaged_are_extracted_again(
    lost: str, how: Callable[[Path], object], cifar: str, server: ArchiveServer, tmp_path: Path
) -> None:
    module = fresh(tmp_path)
    module.prepare_data()
    how(module.root / module.dataset.base_folder / lost)
    trains(fresh(tmp_path))
    assert len(server.requests) == 1


def test_an_archive_put_there_by_hand_needs_no_network(cifar: str, server: ArchiveServer, tmp_path: Path) -> None:
    module = CIFAR100DataModule(root=tmp_path / "data", download=False, batch_size=2, num_workers=0)
    module.root.mkdir()
    module.prepare_data()
    with pytest.raises(MissingDataError, match=r"data\.download=true"):
        _ = module.class_names
    (module.root / cifar).write_bytes(server.files[cifar][:500])
    assert "failed (Compressed file ended" in refusal(module)
    (module.root / cifar).write_bytes(server.files[cifar])
    trains(module)
    assert not server.requests


def test_progress_is_logged_where_there_is_no_terminal(
    cifar: str, server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(download, "LOG_EVERY_SECONDS", 0.0)
    fresh(tmp_path).prepare_data()
    size = decimal(len(server.files[cifar]))
    assert f"downloading: {server.url(cifar)} ({size}) to {tmp_path}" in caplog.text
    assert f"{cifar}: {size} of {size}" in caplog.text


def test_progress_is_a_bar_in_a_terminal(
    cifar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    monkeypatch.setattr(download, "get_console", lambda: Console(force_terminal=True, width=100))
    fresh(tmp_path).prepare_data()
    shown = capsys.readouterr().out
    assert cifar in shown
    assert "━" in shown


def test_errors_reach_other_processes_whole(tmp_path: Path) -> None:
    error = missing_data("Cats", searched=[tmp_path], remedy="adopt one")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
