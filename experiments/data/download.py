"""Download a file: verified, and resumed after an interruption."""

import logging
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rich import get_console
from rich.filesize import decimal
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn
from torchvision.datasets.utils import check_integrity

CHUNK = 1 << 16
TIMEOUT_SECONDS = 30.0
# Official servers break connections. Reconnecting ends after MAX_IDLE connections in a row that bring nothing.
MAX_IDLE = 3
RETRY_SECONDS = 2.0
LOG_EVERY_SECONDS = 15.0

log = logging.getLogger(__name__)


def download_file(url: str, path: Path, md5: str) -> None:
    """Download a file, which is called `<path>.part` until it is complete and its MD5 checksum is verified.

    A part that is there is resumed, and connections that break after they brought something are renewed. An OSError, or an
    HTTPException, if the server, the network or the disk fails, or the checksum is another one.
    """
    part, idle = path.with_name(f"{path.name}.part"), 0
    while True:
        before = _size(part)
        try:
            _receive(url, part, before)
            break
        except (OSError, HTTPException) as error:
            idle = 0 if _size(part) > before else idle + 1
            if not _size(part) or idle > MAX_IDLE:
                raise
            log.warning(f"{url}: {error or type(error).__name__}; reconnecting")
            time.sleep(RETRY_SECONDS * (idle + 1))
    if not check_integrity(part, md5):
        size = decimal(_size(part))
        part.unlink()
        raise OSError(f"the {size} that arrived have another MD5 checksum than {md5}, and are removed")
    part.replace(path)
    log.info(f"downloaded: {path}, checksum verified")


def _receive(url: str, part: Path, offset: int) -> None:
    """Append what one connection brings, from `offset` on."""
    request = Request(url, headers={"User-Agent": "pytorch/vision"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        response = urlopen(request, timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        # What is there is no shorter than the file: its checksum decides.
        if error.code == 416:
            return
        raise
    # A server that cannot resume sends the whole file.
    done = offset if response.status == 206 else 0
    total = done + int(response.headers.get("Content-Length", 0))
    log.info(f"{f'resuming at {decimal(done)}' if done else 'downloading'}: {url} ({decimal(total)}) to {part}")
    bar = Progress(*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn(), console=get_console())
    bar.disable = not bar.console.is_terminal
    task = bar.add_task(part.stem, completed=done, total=total or None)
    logged = time.monotonic()
    with response, part.open("ab" if done else "wb") as file, bar:
        while chunk := response.read1(CHUNK):
            file.write(chunk)
            # At once, so that a killed process leaves all that has arrived.
            file.flush()
            done += len(chunk)
            bar.update(task, completed=done)
            if bar.disable and time.monotonic() - logged >= LOG_EVERY_SECONDS:
                logged = time.monotonic()
                log.info(f"{part.stem}: {decimal(done)} of {decimal(total)}")
    if done < total:
        raise ConnectionError(f"the connection ended after {decimal(done)} of {decimal(total)}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
