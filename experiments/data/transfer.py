"""Bring a file here over HTTP, over several connections if need be, continuing with the part that is there."""

import logging
import os
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from experiments.data.transfer_bar import TransferBar, megabytes

CHUNK = 1 << 16
# No byte for so long: the server hangs.
TIMEOUT_SECONDS = 30.0
# Fewer bytes a second than MIN_RATE over so long: a download that would take days. Official servers go down to 90 kB/s.
SLOW_SECONDS = 60.0
MIN_RATE = 1000
# A connection that breaks is opened again, and some more times while it brings nothing, provided that one ever did.
MAX_CONNECTIONS = 20
MAX_IDLE = 3
RETRY_SECONDS = 2.0

log = logging.getLogger(__name__)


class TransferError(Exception):
    """A connection broke or brought the wrong bytes; the message is half a sentence for `DownloadError`."""


def transfer(url: str, target: Path, *, title: str) -> None:
    """Bring a file to its full length, over as many connections as it takes.

    Args:
        url: Where it is.
        target: The file; if it is there, it is taken for the beginning.
        title: What it is called in the log.

    Raises:
        OSError: If it cannot be written.
        TransferError: If the server cannot be reached, refuses, breaks off again and again, or is too slow.
    """
    useful = idle = 0
    for number in range(1, MAX_CONNECTIONS + 1):
        before = _size(target)
        try:
            _receive(url, target, before, title)
            return
        except _BrokenOffError as error:
            if _size(target) > before:
                useful, idle = useful + 1, 0
            else:
                idle += 1
            if not useful or idle > MAX_IDLE or number == MAX_CONNECTIONS:
                raise
            log.warning(f"{url}: {error}; connecting again")
            time.sleep(RETRY_SECONDS * (idle + 1))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


class _BrokenOffError(TransferError):
    """The connection ended early or was not made; another one may bring the rest."""


def _receive(url: str, target: Path, offset: int, title: str) -> None:
    """Append to the partial file what one connection brings, from `offset` on."""
    response, start = _connect(url, offset)
    length = response.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    if offset and not start:
        log.info(f"{url} cannot be continued: begun again")
    begun = f"continuing at {megabytes(start)}" if start else "downloading"
    size = "" if total is None else f" ({megabytes(total)})"
    log.info(f"{begun}: {title}{size} from {url} to {target}")
    done, speed = start, _Speedometer(start)
    with response, target.open("ab" if start else "wb") as file, TransferBar(title, start, total) as bar:
        while True:
            try:
                # Whatever there is: a read of the whole chunk would wait for a server that trickles.
                chunk = response.read1(CHUNK)
            except (OSError, HTTPException) as error:
                raise _BrokenOffError(f"the connection broke at {megabytes(done)} ({_describe(error)})") from error
            if not chunk:
                break
            file.write(chunk)
            # At once, so that a process that is killed leaves all that has arrived.
            file.flush()
            done += len(chunk)
            bar.update(done)
            speed.check(done)
        os.fsync(file.fileno())
    if total is not None and done < total:
        raise _BrokenOffError(f"the connection ended after {megabytes(done)} of {megabytes(total)}")


def _connect(url: str, offset: int) -> tuple[Any, int]:
    """Open a connection from byte `offset` on; return it and the byte that it really starts from, `offset` or 0."""
    headers = {"User-Agent": "pytorch/vision", **({"Range": f"bytes={offset}-"} if offset else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        if offset and error.code == 416:
            # What is there is no shorter than the file.
            return _connect(url, 0)
        kind = _BrokenOffError if error.code >= 500 else TransferError
        raise kind(f"the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise _BrokenOffError(f"the server cannot be reached ({_describe(error)})") from error
    continued = (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")
    return response, offset if offset and continued else 0


def _describe(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing for {TIMEOUT_SECONDS:g} s"
    return str(cause) or type(cause).__name__


class _Speedometer:
    """Ends a transfer that is so slow that nobody would wait for it."""

    def __init__(self, done: int) -> None:
        self._mark = (time.monotonic(), done)

    def check(self, done: int) -> None:
        """Take note of the bytes that are done.

        Raises:
            TransferError: If too few arrived.
        """
        since, before = self._mark
        seconds = time.monotonic() - since
        if seconds < SLOW_SECONDS:
            return
        if done - before < MIN_RATE * seconds:
            raise TransferError(f"the server is too slow, {(done - before) / seconds:.0f} bytes/s over {seconds:.0f} s")
        self._mark = (time.monotonic(), done)
