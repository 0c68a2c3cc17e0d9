"""What a user can put right about run folders."""


class RunFolderError(ValueError):
    """A run cannot be resumed, or its folder is in use by another one; the message says what to do."""
