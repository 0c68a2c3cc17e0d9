"""Errors that a user can put right."""


class UserError(ValueError):
    """Commands print the message, which names the value and the way out, and exit with code 1, without a traceback."""


class UnwritableError(UserError):
    """A file cannot be written: the disk is full, the folder is read-only; the message names the file and the reason."""


class RunFolderError(UserError):
    """A run cannot be resumed, or its folder is in use by another run."""
