"""The HTML page about runs."""

from experiments.html_report.page import REPORT, write_report

__all__ = ["REPORT", "write_report"]
