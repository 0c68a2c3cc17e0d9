"""Methods compared by pairs of made-up runs, against scipy's paired t-test."""

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import make_evaluation, make_run
from scipy import stats

from experiments.common.errors import UserError
from experiments.summarize import main
from experiments.sweep_results import compare_pairs, compare_runs, find_runs, plot_differences
from experiments.sweep_results.comparison import Comparison

NONE, CUTMIX, PUZZLEMIX = (0.301, 0.322, 0.314, 0.297), (0.381, 0.379, 0.392), (0.401, 0.405, 0.388, 0.399)
ACCURACIES = {"none": NONE, "cutmix": CUTMIX, "puzzlemix": PUZZLEMIX}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Four seeds of three methods, of which one has three seeds; FGSM of some."""
    for mix, accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            folder = tmp_path / "sweep" / f"{mix}_{seed}"
            error = 0.1 + accuracy / 7
            make_run(folder, seed=seed, accuracy=accuracy, calibration_error=error, choices={"mix": mix})
            if seed < 2:
                make_evaluation(folder / "evaluation_last", accuracy=accuracy / 2)
    # On a part of the images: not to be compared.
    make_evaluation(tmp_path / "sweep/none_2/evaluation_last", accuracy=0.99, images=10)
    return tmp_path / "sweep"


def differences(folder: Path, reference: str | None = None, by: Sequence[str] = ()) -> Comparison:
    found = compare_pairs(compare_runs(find_runs([folder])[0], by), reference)
    assert found is not None
    return found


def check(found: tuple[float, ...], first: Sequence[float], second: Sequence[float]) -> None:
    test = stats.ttest_rel(first, second)
    values = np.subtract(first, second)
    interval = test.confidence_interval(0.95)
    assert found == pytest.approx((len(values), values.mean(), values.std(ddof=1), interval.low, interval.high))


def test_differences_are_those_of_a_paired_t_test(sweep: Path) -> None:
    found = differences(sweep)
    assert (found.reference, found.metrics) == ("none", ["accuracy", "calibration_error", "fgsm_4_last"])
    cutmix, puzzlemix = found.groups
    assert (cutmix.label, puzzlemix.label) == ("cutmix", "puzzlemix")
    check(puzzlemix.scores["accuracy"], PUZZLEMIX, NONE)
    # The seed that one method lacks is in no pair.
    check(cutmix.scores["accuracy"], CUTMIX, NONE[:3])
    check(puzzlemix.scores["calibration_error"], np.divide(PUZZLEMIX, 7), np.divide(NONE, 7))
    check(puzzlemix.scores["fgsm_4_last"], np.divide(PUZZLEMIX[:2], 2), np.divide(NONE[:2], 2))


def test_the_reference_can_be_chosen(sweep: Path) -> None:
    found = differences(sweep, "puzzlemix")
    assert [group.label for group in found.groups] == ["cutmix", "none"]
    check(found.groups[1].scores["accuracy"], NONE, PUZZLEMIX)
    with pytest.raises(UserError, match=r"--reference mixup is 0 of the methods; give one of cutmix; none; puzz"):
        differences(sweep, "mixup")


def test_pairs_have_the_same_settings_too(tmp_path: Path) -> None:
    """Also where `--by` pools runs; a single pair has no interval, and none no difference."""
    for index, (mix, epochs, accuracy) in enumerate(
        (("none", 20, 0.3), ("none", 40, 0.4), ("cutmix", 20, 0.35), ("cutmix", 40, 0.5), ("puzzlemix", 60, 0.9))
    ):
        folder = tmp_path / str(index)
        make_run(folder, accuracy=accuracy, choices={"mix": mix}, settings={"epochs": epochs})
    found = differences(tmp_path)
    assert [group.label for group in found.groups] == [
        "mix cutmix, epochs 20", "mix cutmix, epochs 40", "mix puzzlemix, epochs 60",
    ]  # fmt: skip
    twenty, forty, sixty = (group.scores["accuracy"] for group in found.groups)
    assert twenty == (1, pytest.approx(0.05), None, None, None)
    assert forty == (1, pytest.approx(0.1), None, None, None)
    assert sixty == (0, None, None, None, None)
    pooled, _ = differences(tmp_path, by=["mix"]).groups
    check(pooled.scores["accuracy"], (0.35, 0.5), (0.3, 0.4))


def test_settings_of_a_method_are_compared_with_the_first(tmp_path: Path) -> None:
    for beta, accuracies in ((0.6, (0.5, 0.6)), (1.2, (0.55, 0.67))):
        for seed, accuracy in enumerate(accuracies):
            make_run(tmp_path / f"{beta}_{seed}", seed=seed, accuracy=accuracy, settings={"mix.config.beta": beta})
    found = differences(tmp_path)
    assert (found.reference, [group.label for group in found.groups]) == ("beta 0.6", ["beta 1.2"])
    check(found.groups[0].scores["accuracy"], (0.55, 0.67), (0.5, 0.6))
    assert differences(tmp_path, "1.2").reference == "beta 1.2"


def test_runs_that_do_not_differ_in_the_method_are_not_compared(tmp_path: Path) -> None:
    for index in range(2):
        make_run(tmp_path / str(index), settings={"data.fraction": 0.5 + index / 2})
    runs, _ = find_runs([tmp_path])
    assert compare_pairs(compare_runs(runs)) is None
    with pytest.raises(UserError, match="do not differ in mix"):
        compare_pairs(compare_runs(runs), "none")


def test_the_plot_has_a_dot_and_an_interval_for_each_method(sweep: Path) -> None:
    found = differences(sweep)
    figure = plot_differences(found, "title")
    assert [axes.get_xlabel() for axes in figure.axes] == ["accuracy %", "calibration error %", "FGSM 4/255 last %"]
    axes = figure.axes[0]
    dots, zero = axes.lines
    (intervals,) = axes.collections
    scores = [group.scores["accuracy"] for group in found.groups]
    np.testing.assert_allclose(dots.get_xdata(), [100 * score.mean for score in scores])
    np.testing.assert_allclose(zero.get_xdata(), 0)
    bounds = [[100 * score.low, 100 * score.high] for score in scores]
    np.testing.assert_allclose([segment[:, 0] for segment in intervals.get_segments()], bounds)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cutmix", "puzzlemix"]


def test_the_command_prints_and_writes_them(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep), "--reference", "cutmix", "--metric", "fgsm_4_last"])
    printed = capsys.readouterr().out
    assert "Difference to cutmix" in printed
    with (sweep / "summary_differences.csv").open(newline="") as file:
        lines = {line["mix"]: line for line in csv.DictReader(file)}
    assert set(lines) == {"none", "puzzlemix"}
    names = [f"accuracy_{part}" for part in ("n", "mean", "sd", "low", "high")]
    check(tuple(float(lines["puzzlemix"][name]) for name in names), PUZZLEMIX[:3], CUTMIX)
    assert lines["none"]["reference"] == "cutmix"
    mean = 100 * (np.mean(PUZZLEMIX[:3]) - np.mean(CUTMIX))
    assert f"{mean:+.2f} ±" in printed
    assert f"{mean:+.2f} ±" in (sweep / "summary_table.md").read_text()
    assert (sweep / "summary_differences.png").is_file()


def test_where_and_how_a_run_was_trained_parts_no_pairs(tmp_path: Path) -> None:
    """A run that was started on another machine, or with another version's defaults, is still of the same setting."""
    elsewhere = {"trainer.enable_progress_bar": False, "data.num_workers": 8, "trainer.log_every_n_steps": 7}
    for index, (mix, seed) in enumerate(itertools.product(("none", "cutmix"), range(3))):
        settings = elsewhere if index % 2 else {}
        make_run(tmp_path / str(index), seed=seed, accuracy=0.5 + index / 10, choices={"mix": mix}, settings=settings)
    comparison = compare_runs(find_runs([tmp_path])[0])
    assert list(comparison.keys) == ["mix"]
    (difference,) = compare_pairs(comparison).groups
    assert (difference.scores["accuracy"].n, difference.scores["accuracy"].mean) == (3, pytest.approx(0.3))
