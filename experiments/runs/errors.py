"""What a user can put right about run folders."""

from experiments.common.errors import UserError


class RunFolderError(UserError):
    """A run cannot be resumed, or its folder is in use by another one; the message says what to do."""
