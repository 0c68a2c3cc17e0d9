"""A server on loopback that holds small archives in the official layouts, and can fail in the ways that servers do."""

import io
import json
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from command_line import REPOSITORY
from layouts import write_cifar, write_tiny_imagenet

from experiments.data import CIFAR10DataModule, TinyImageNetDataModule, tiny_imagenet

# Torchvision's facts of a data set that are replaced: where it is and what it is verified by.
FACTS = ("url", "tgz_md5", "train_list", "test_list", "meta")


@dataclass
class ArchiveServer:
    """What it serves, how it fails, and what it was asked for.

    Args:
        files: Content by name.
        faults: What goes wrong with the next requests, the first one first: a number of bytes after which the connection
            ends, "stall", "trickle", an HTTP status; None: nothing.
        ranges: Whether it can continue a download.
        requests: Names and the ranges that were asked for, None where the whole file was.
        pause: Seconds before each answer, so that others arrive meanwhile.
        gate: Answers are held back while it is not set.
    """

    port: int
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[int | str | None] = field(default_factory=list)
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    pause: float = 0.0
    gate: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name, wanted = handler.path.removeprefix("/"), handler.headers["Range"]
        self.requests.append((name, wanted))
        self.gate.wait(60)
        time.sleep(self.pause)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, str) and fault.isdecimal():
            handler.send_error(int(fault))
            return
        content = self.files.get(name)
        if content is None:
            handler.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        if start >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        self._send(handler, content[start:], fault)

    def _send(self, handler: BaseHTTPRequestHandler, content: bytes, fault: int | str | None) -> None:
        if fault == "trickle":
            for byte in content:
                if self.closing.wait(0.02):
                    return
                handler.wfile.write(bytes([byte]))
            return
        handler.wfile.write(content[:fault] if isinstance(fault, int) else content[: 100 if fault == "stall" else None])
        if fault == "stall":
            handler.wfile.flush()
            self.closing.wait(60)


@contextmanager
def serve() -> Iterator[ArchiveServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):
                held.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    held = ArchiveServer(server.server_port)
    held.gate.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield held
    finally:
        held.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def publish_cifar(
    server: ArchiveServer, module: type[CIFAR10DataModule], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Serve a small CIFAR archive; address and checksums of the data set become its own. Returns the archive's name."""
    write_cifar(folder, module, monkeypatch)
    held, name = io.BytesIO(), module.dataset.filename
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        archive.add(folder / module.dataset.base_folder, arcname=module.dataset.base_folder)
    server.files[name] = held.getvalue()
    monkeypatch.setattr(module.dataset, "url", server.url(name))
    monkeypatch.setattr(module.dataset, "tgz_md5", md5(held.getvalue()).hexdigest())
    return name


def publish_tiny_imagenet(server: ArchiveServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Serve a small Tiny-ImageNet zip, as `publish_cifar` does."""
    root = write_tiny_imagenet(folder / tiny_imagenet.NAME)
    held, name = io.BytesIO(), f"{tiny_imagenet.NAME}.zip"
    with zipfile.ZipFile(held, "w") as archive:
        for path in sorted(root.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    server.files[name] = held.getvalue()
    monkeypatch.setattr(TinyImageNetDataModule, "url", server.url(name))
    monkeypatch.setattr(TinyImageNetDataModule, "md5", md5(held.getvalue()).hexdigest())
    return name


def replaced_in_commands(folder: Path, *modules: type[CIFAR10DataModule]) -> dict[str, str]:
    """Environment in which commands see the addresses and checksums that are replaced here."""
    facts = {module.dataset.__name__: {name: getattr(module.dataset, name) for name in FACTS} for module in modules}
    tiny = {name: getattr(TinyImageNetDataModule, name) for name in ("url", "md5")}
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"""import json
from torchvision import datasets
from experiments.data import TinyImageNetDataModule
for kind, facts in json.loads({json.dumps(facts)!r}).items():
    for name, value in facts.items():
        setattr(getattr(datasets, kind), name, value)
for name, value in json.loads({json.dumps(tiny)!r}).items():
    setattr(TinyImageNetDataModule, name, value)
"""
    )
    return {"PYTHONPATH": f"{folder}:{REPOSITORY}", "no_proxy": "127.0.0.1"}
