"""The results of a test per class: counting, the file `test_results.json`, plots."""

from experiments.test_results.counts import CALIBRATION_BINS, TestResultCounts
from experiments.test_results.plots import NAMED, plot_calibration, plot_confusion, plot_per_class
from experiments.test_results.results import TEST_RESULTS, CalibrationCurve, Shares, TestResults

__all__ = [
    "CALIBRATION_BINS", "NAMED", "TEST_RESULTS", "CalibrationCurve", "Shares", "TestResultCounts",
    "TestResults", "plot_calibration", "plot_confusion", "plot_per_class",
]  # fmt: skip
