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

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Until a signal that was swallowed is given again; a destructor takes less.
AGAIN_SECONDS = 0.05


class RunStopped(SystemExit):
    """A run that was asked to stop and has left a checkpoint; exits with 128 + the signal's number, as shells expect."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    def __reduce__(self) -> tuple[Any, ...]:
        """As made: it travels from the processes of a sweep."""
        return type(self), (self.signum,)


class RunInterrupted(SystemExit):
    """A command that a signal has ended at once; exits with 128 + the signal's number.

    Attributes:
        signum: The signal.
        told: Whether the user has been told of it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        self.told = False

    def __reduce__(self) -> tuple[Any, ...]:
        """As made: it travels from the processes of a sweep."""
        return type(self), (self.signum,)


def name_of(signum: int) -> str:
    """What a user calls the signal."""
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `RunInterrupted`, wherever the program is.

    Without it SIGTERM would end the process without a word, and Lightning would end it so at a KeyboardInterrupt. Only of use
    in the main thread, which alone can listen to signals; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    listener = _Interruption()
    previous = {signum: signal.signal(signum, listener) for signum in SIGNALS}
    try:
        with listener.insisting():
            yield
        # Swallowed by somebody's `except`, it has ended nothing.
        if listener.signum is not None:
            raise RunInterrupted(listener.signum)
    finally:
        for signum, handler in previous.items():
            # None: a handler that was not set by Python, which cannot be set again by it.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


class _Interruption:
    """The handler of both signals; in the processes that a data loader has forked, which inherit it, it does nothing."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.signum: int | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        # A loader process ends with its parent, which may still want batches of it.
        if os.getpid() == self._pid:
            self.signum = signum
            raise RunInterrupted(signum)

    @contextmanager
    def insisting(self) -> Iterator[None]:
        """Inside, a signal is given again where Python has swallowed its exception: in a destructor, in a callback from C."""
        hook, timers = sys.unraisablehook, []

        def give_again(unraisable: Any) -> None:
            error = unraisable.exc_value
            if not isinstance(error, RunInterrupted) or os.getpid() != self._pid:
                hook(unraisable)
                return
            # Later, as the exception of a handler that ran in here would be swallowed too.
            timer = threading.Timer(AGAIN_SECONDS, os.kill, (self._pid, error.signum))
            timer.daemon = True
            timers.append(timer)
            timer.start()

        sys.unraisablehook = give_again
        try:
            yield
        finally:
            sys.unraisablehook = hook
            for timer in timers:
                timer.cancel()


class GracefulStop(pl.Callback):
    """On SIGINT or SIGTERM finishes the running batch, saves `path` and stops; a second SIGINT stops at once.

    While nothing is trained, in the sanity check and in the test, both stop at once, see `interruptible`.

    Args:
        path: The checkpoint to write.

    Attributes:
        signum: The signal that asked to stop; None: none did.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pid = os.getpid()
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}
        self._outside: dict[int, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember who is to be told of a signal outside of training."""
        self._outside = {signum: signal.getsignal(signum) for signum in SIGNALS}

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set aside Lightning's own handler of SIGTERM, which talks to other processes from inside."""
        self._listen_as_outside()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same in the test."""
        self._listen_as_outside()

    def _listen_as_outside(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in self._outside.items():
                signal.signal(signum, handler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen; Lightning's own handler of SIGTERM is set aside here too."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {signum: signal.signal(signum, self._ask) for signum in SIGNALS}

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        # Inherited by the processes that a data loader has forked, whose parent is told too.
        if os.getpid() != self._pid:
            return
        if self.signum is not None and signum == signal.SIGINT:
            raise RunInterrupted(signum)
        self.signum = signum
        log.info(f"{signal.Signals(signum).name}: stopping after this batch with a checkpoint; Ctrl-C again: at once")

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
            # Where Lightning looks at the next place at which all processes can stop together; it has no public setter.
            trainer._signal_connector.received_sigterm = True

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save what was reached, if all processes have stopped at the end of a batch."""
        if isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(self.path, weights_only=False)
        if isinstance(exception, RunInterrupted):
            # Those that Lightning has started would wait for this one.
            kill = getattr(trainer.strategy.launcher, "kill", None)
            if kill is not None:
                kill(signal.SIGTERM)
        self._stop_listening()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._stop_listening()

    def _stop_listening(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}
