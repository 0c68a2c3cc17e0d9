"""Ctrl-C and SIGTERM end training with a checkpoint, at the next batch; anything else they end at once, with a message."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from experiments.common import print_plain

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Until a signal that was swallowed is given again; a destructor takes less.
AGAIN_SECONDS = 0.05


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
        self.graceful = self._is_active = False
        self._pid = os.getpid()

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
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self)

    @contextmanager
    def insisting(self) -> Iterator[None]:
        """Inside, a signal is given again where Python has swallowed its exception: in a destructor, in a callback from C."""
        hook, self._is_active = sys.unraisablehook, True

        def send_again(signum: int) -> None:
            if self._is_active:
                os.kill(self._pid, signum)

        def on_unraisable(unraisable: Any) -> None:
            if not isinstance(unraisable.exc_value, RunStopped) or os.getpid() != self._pid:
                hook(unraisable)
                return
            # Later, as the exception of a handler that ran in here would be swallowed too.
            timer = threading.Timer(AGAIN_SECONDS, send_again, [unraisable.exc_value.signum])
            timer.daemon = True
            timer.start()

        sys.unraisablehook = on_unraisable
        try:
            yield
        finally:
            sys.unraisablehook, self._is_active = hook, False


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `RunStopped`, wherever the program is.

    Without it SIGTERM would end the process without a message, and Lightning would end it so at a KeyboardInterrupt. Only the
    main thread can handle signals; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, previous = SignalHandler(), {signum: signal.getsignal(signum) for signum in SIGNALS}
    handler.install()
    try:
        with handler.insisting():
            yield
        # Swallowed by somebody's `except`, it has ended nothing.
        if handler.signum is not None:
            raise RunStopped(handler.signum)
    finally:
        for signum, former in previous.items():
            # None: a handler that was not set by Python, which cannot be set again by it.
            signal.signal(signum, signal.SIG_DFL if former is None else former)


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

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same in the test."""
        self._handler.install()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on a signal waits for the end of the batch."""
        self._handler.install(graceful=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here, unless validation comes first: it is not interrupted, or its score would be of a part."""
        if not trainer.is_last_batch:
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between two epochs."""
        self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        if self.signum is not None:
            # What Lightning checks where all processes can stop together. Publicly it is read only, and `should_stop` would
            # count the epoch as finished.
            trainer._signal_connector.received_sigterm = True

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save what was reached, if all processes have stopped at the end of a batch."""
        if isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(self.path, weights_only=False)
        if isinstance(exception, RunStopped):
            # Those that Lightning has started would wait for this one.
            kill = getattr(trainer.strategy.launcher, "kill", None)
            if kill is not None:
                kill(signal.SIGTERM)
        self._handler.graceful = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on a signal stops at once."""
        self._handler.graceful = False
