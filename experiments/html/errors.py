"""The one error of the report."""


class ReportError(ValueError):
    """A report cannot be made as asked; the message says what would do."""
