"""Plots of made-up runs: what is where."""

from pathlib import Path

import numpy as np
from made_up_runs import make_run
from matplotlib.figure import Figure

from experiments.sweep_results import compare_runs, find_runs, plot_comparison


def figure_of(folder: Path, metric: str = "accuracy") -> Figure:
    return plot_comparison(compare_runs(find_runs([folder])[0]), metric, "title")


def test_one_swept_number_gives_a_line_for_each_method(tmp_path: Path) -> None:
    for mix, gain in (("none", 0.0), ("puzzlemix", 0.1)):
        for fraction in (0.1, 0.5, 1.0):
            for seed in (0, 1):
                accuracy = 0.5 + fraction / 10 + gain + (0.02 * seed if fraction < 1 else 0)
                name = f"{mix}{fraction}{seed}"
                make_run(
                    tmp_path / name,
                    seed=seed,
                    accuracy=accuracy,
                    choices={"mix": mix},
                    settings={"data.fraction": fraction},
                )
    figure = figure_of(tmp_path)
    (axes,) = figure.axes
    lines = {container.get_label(): container for container in axes.containers}
    assert list(lines) == ["none", "puzzlemix"]
    means, _, (bars,) = lines["puzzlemix"]
    np.testing.assert_allclose(means.get_xydata(), [[0.1, 62.0], [0.5, 66.0], [1.0, 70.0]])
    # One standard deviation of two values is their distance over the root of two.
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [62.0 - np.sqrt(2), 62.0 + np.sqrt(2)])
    singles = [line for line in axes.lines if line.get_marker() == "_" and len(line.get_xdata()) == 2]
    assert len(singles) >= 6
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "0.5", "1"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["none", "puzzlemix"]


def test_names_give_a_row_each_with_single_seeds(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.90, 0.93, 0.96)):
        make_run(tmp_path / str(seed), seed=seed, accuracy=accuracy, choices={"mix": "none"})
    make_run(tmp_path / "3", choices={"mix": "puzzlemix"})
    (axes,) = figure_of(tmp_path).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "puzzlemix"]
    seeds = [line.get_xdata() for line in axes.lines if line.get_marker() == "|"]
    assert any(len(values) == 3 and np.allclose(values, [90, 93, 96]) for values in seeds)
    # Top to bottom in the order of the table.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_several_numbers_give_a_row_each(tmp_path: Path) -> None:
    for index in range(3):
        settings = {f"mix.config.{name}": 0.1 + index / 10 for name in ("beta", "eta")}
        make_run(tmp_path / str(index), accuracy=index / 10, settings=settings)
    (axes,) = figure_of(tmp_path).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "beta 0.1, eta 0.1", "beta 0.2, eta 0.2", "beta 0.3, eta 0.3",
    ]  # fmt: skip


def test_mixed_values_are_not_put_on_an_axis(tmp_path: Path) -> None:
    for name, value in (("1", 2), ("2", "auto"), ("3", True)):
        make_run(tmp_path / name, settings={"mix.size": value})
    (axes,) = figure_of(tmp_path).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["size 2", "size True", "auto"]
