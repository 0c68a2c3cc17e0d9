"""How a download shows that it is alive: a bar in a terminal, a line now and then in a log."""

import logging
import time
from types import TracebackType

from rich import get_console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

LOG_EVERY_SECONDS = 15.0

log = logging.getLogger(__name__)


class TransferBar:
    """Shows how much of a file has arrived, for as long as it is entered.

    Args:
        title: What is downloaded.
        done: Bytes that are there already.
        total: Bytes of the whole file; None: the server does not say.
    """

    def __init__(self, title: str, done: int, total: int | None) -> None:
        self.title = title
        self.total = total
        self._logged = time.monotonic()
        self._progress: Progress | None = None
        if get_console().is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn())
            self._progress = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=get_console())
            self._progress.add_task(title, completed=done, total=total)

    def __enter__(self) -> "TransferBar":
        """Show the bar."""
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the bar as it is."""
        if self._progress is not None:
            self._progress.stop()

    def update(self, done: int) -> None:
        """Take note of the bytes that are there."""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done)
        elif time.monotonic() - self._logged >= LOG_EVERY_SECONDS:
            self._logged = time.monotonic()
            of = "" if self.total is None else f" of {megabytes(self.total)}, {done / max(1, self.total):.0%}"
            log.info(f"{self.title}: {megabytes(done)}{of}")


def megabytes(size: int) -> str:
    """A number of bytes for people, e.g. "161.2 MB"; small ones to the byte."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size:,} bytes"
