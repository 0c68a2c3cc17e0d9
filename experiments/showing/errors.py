"""What can be wrong with a command that shows mixing."""


class ShowError(Exception):
    """What a user can put right; the message says how."""
