"""Runs that end early: Ctrl-C and SIGTERM end training with a checkpoint, at the next batch, and anything else at once."""

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from experiments.common import as_typed_here, command_line, mask_text, print_plain, resume_command, short
from experiments.runs.run_folder import LAST_CHECKPOINT

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunStopped(SystemExit):
    """A command that a signal has stopped; exits with 128 + the signal's number, as shells expect."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum, self.is_reported = signum, False

    def __reduce__(self) -> tuple[Any, ...]:
        # It travels from the processes of a sweep.
        return type(self), (self.signum,)

    def __str__(self) -> str:
        return "Stopped by " + ("Ctrl-C" if self.signum == signal.SIGINT else signal.Signals(self.signum).name)

    def report(self) -> None:
        """Tell the user, unless that has been done."""
        if not self.is_reported:
            print_plain(f"{self}.")
        self.is_reported = True


class SignalHandler:
    """Raises `RunStopped`, wherever the program is; while `graceful`, it only remembers `signum`, until a second SIGINT."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.graceful, self._pid = False, os.getpid()

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        # Processes that a data loader has forked inherit the handler; they end with their parent, which may still want batches.
        if os.getpid() != self._pid:
            return
        first, self.signum = self.signum is None, signum
        if not self.graceful or (signum == signal.SIGINT and not first):
            raise RunStopped(signum)
        log.info(f"{signal.Signals(signum).name}: stopping after this batch with a checkpoint; Ctrl-C again: at once")

    def install(self, *, graceful: bool = False) -> None:
        """Handle both signals from now on, which only the main thread can."""
        self.graceful = graceful
        with suppress(ValueError):
            for signum in SIGNALS:
                signal.signal(signum, self)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `RunStopped`, wherever the program is; at the end, if somebody's `except` swallowed it.

    Without it SIGTERM, and in Lightning a KeyboardInterrupt, would end the process without a message.
    """
    handler, previous = SignalHandler(), {signum: signal.getsignal(signum) for signum in SIGNALS}
    handler.install()
    try:
        yield
        if handler.signum is not None:
            raise RunStopped(handler.signum)
    finally:
        with suppress(ValueError):
            for signum, former in previous.items():
                # None: a handler that was not set by Python, which cannot be set again by it.
                signal.signal(signum, former or signal.SIG_DFL)


class GracefulStop(pl.Callback):
    """On SIGINT or SIGTERM finishes the running batch, saves `path` and stops; a second SIGINT stops at once.

    While nothing is trained, in the sanity check and in the test, both stop at once, see `interruptible`.
    """

    def __init__(self, path: Path) -> None:
        self.path, current = path, signal.getsignal(signal.SIGINT)
        # That of `interruptible`, inside of which runs are built.
        self._handler = current if isinstance(current, SignalHandler) else SignalHandler()

    @property
    def signum(self) -> int | None:
        """The signal that asked to stop; None: none did."""
        return self._handler.signum

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set aside Lightning's own handler of SIGTERM, which talks to other processes from inside."""
        self._handler.install()

    on_test_start = on_sanity_check_start

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on a signal waits for the end of the batch."""
        self._handler.install(graceful=True)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Stop here, unless validation comes first: it is not interrupted, or its score would be of a part."""
        if not trainer.is_last_batch:
            self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have Lightning stop where all processes can stop together."""
        if self.signum is not None:
            # Publicly this is read only, and `should_stop` would count the epoch as finished.
            trainer._signal_connector.received_sigterm = True

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save what was reached, if all processes have stopped at the end of a batch."""
        if isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(self.path, weights_only=False)
        # Those that Lightning has started would wait for this one.
        elif isinstance(exception, RunStopped) and hasattr(trainer.strategy.launcher, "kill"):
            trainer.strategy.launcher.kill(signal.SIGTERM)


def print_early_end(error: BaseException, run_dir: Path, overrides: Sequence[str], *, finished: bool) -> None:
    """Print what ended a run, what is kept, and how to resume; nothing for an error of which nothing is kept.

    `finished`: the result had been saved before. Not through the log, which wraps lines that are to be pasted.
    """
    how, checkpoint = "The run failed", run_dir / LAST_CHECKPOINT
    if isinstance(error, RunStopped):
        how, error.is_reported = str(error), True
    if finished:
        print_plain(
            f"{how}, but the run is finished and its result is saved in {short(run_dir)}. Images and report may be missing; "
            f"the report is made by:\n{command_line('report', run_dir)}"
        )
    elif checkpoint.is_file() or isinstance(error, RunStopped):
        kept = f"has a checkpoint, {short(checkpoint)}" if checkpoint.is_file() else "has no checkpoint yet"
        command = as_typed_here(resume_command(overrides, run_dir))
        print_plain(f"{how}: the run ended early and {kept}. Resume with:\n{command}")


@contextmanager
def optional(what: str, remedy: str, file: Path | None = None) -> Iterator[None]:
    """Inside, what comes after a saved result: should it fail, the result stands, and a warning names what is missing.

    `remedy` is the command that makes it; `file` is what was being written, which is removed.
    """
    try:
        yield
    # Whatever it is: a full disk, a font, a service that does not answer.
    except Exception as error:
        log.debug("%s", what, exc_info=True)
        if file is not None:
            with suppress(OSError):
                file.unlink(missing_ok=True)
        reason = mask_text(" ".join(f"{type(error).__name__}: {error}".split()))
        log.warning(f"Warning: {what} is missing ({reason}); the result is saved. To make it:")
        # Not through the log, which wraps lines.
        print_plain(remedy)
