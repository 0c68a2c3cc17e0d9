"""The log of a run that outlives a full disk."""

import logging
import sys

from experiments.common.console import print_plain


class LogFile(logging.FileHandler):
    """Says once that it cannot be written, where Python's prints a traceback for every line; the terminal has the lines."""

    _has_said = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Handle an error in writing a line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_said:
            self._has_said = True
            print_plain(f"{self.baseFilename} cannot be written: {error.strerror or error}")
