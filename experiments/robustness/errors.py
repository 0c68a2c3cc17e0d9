"""What a user can put right."""


class EvaluationError(ValueError):
    """A setting, a checkpoint or a model does not suit an evaluation; the message says what to do."""
