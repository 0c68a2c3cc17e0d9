"""The one kind of error that a command ends with in a sentence."""


class UserError(ValueError):
    """What the user can put right: the message names the value and the way out.

    Commands print it and exit with code 1, without a traceback. Subclasses exist only where a caller handles one apart.
    """
