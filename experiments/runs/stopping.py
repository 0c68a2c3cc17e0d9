"""Ctrl-C and SIGTERM end training with a checkpoint, at the next batch; anything else they end at once, with a message."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from experiments.common import print_plain

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunStopped(SystemExit):
    """A command that a signal has stopped; exits with 128 + the signal's number, as shells expect."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum, self.is_reported = signum, False

    def __reduce__(self) -> tuple[Any, ...]:
        """As made: it travels from the processes of a sweep."""
        return type(self), (self.signum,)

    def __str__(self) -> str:
        """How it was stopped."""
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
        """Handle both signals from now on; only the main thread can."""
        self.graceful = graceful
        with suppress(ValueError):
            for signum in SIGNALS:
                signal.signal(signum, self)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `RunStopped`, wherever the program is; at the end, if somebody's `except` swallowed it.

    Without it SIGTERM would end the process without a message, and Lightning would end it so at a KeyboardInterrupt. Only the
    main thread can handle signals; elsewhere nothing changes.
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
        self.path = path
        self._handler = SignalHandler()

    @property
    def signum(self) -> int | None:
        """The signal that asked to stop; None: none did."""
        return self._handler.signum

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take over the handler of `interruptible`."""
        current = signal.getsignal(signal.SIGINT)
        self._handler = current if isinstance(current, SignalHandler) else SignalHandler()

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set aside Lightning's own handler of SIGTERM, which talks to other processes from inside."""
        self._handler.install()

    on_test_start = on_sanity_check_start

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on a signal waits for the end of the batch."""
        self._handler.install(graceful=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
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
