"""The results of a test per class: counting, the file `test_results.json`, plots."""

from experiments.test_results.plots import NAMED, plot_bars, plot_calibration, plot_confusion, plot_per_class
from experiments.test_results.results import CALIBRATION_BINS, TEST_RESULTS, TestResultCounts, TestResults

__all__ = [
    "CALIBRATION_BINS", "NAMED", "TEST_RESULTS", "TestResultCounts", "TestResults", "plot_bars", "plot_calibration",
    "plot_confusion", "plot_per_class",
]  # fmt: skip
