"""Tables of made-up runs, with numbers counted by hand or by numpy."""

import csv
import io
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_runs import make_run, make_unfinished
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from experiments.common.errors import UserError
from experiments.runs.summary import AccuracyByEpoch
from experiments.summarize import main
from experiments.sweep_results import compare_runs, find_runs, summarize_runs


def show(tmp_path: Path, **settings: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    summarize_runs(console, [tmp_path], **settings)
    return console.file.getvalue()


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary_table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def methods(tmp_path: Path) -> None:
    """Two methods; three seeds and one seed."""
    for seed, accuracy in enumerate((0.90, 0.93, 0.96)):
        make_run(tmp_path / f"a/{seed}", seed=seed, accuracy=accuracy, choices={"mix": "none"})
    make_run(
        tmp_path / "b/0",
        accuracy=0.97,
        choices={"mix": "puzzlemix"},
        by_epoch=AccuracyByEpoch(best=0.95, last=0.97, median_last_10=0.91),
    )


@pytest.mark.usefixtures("methods")
def test_mean_and_deviation_over_seeds(tmp_path: Path) -> None:
    text = show(tmp_path)
    # Mean 93; deviations -3, 0, 3; 18 / (3 - 1) = 9.
    (none,) = (line.split() for line in text.splitlines() if line.strip().startswith("none"))
    assert none[:8] == ["none", "0", "1", "2", "3", "93.00", "±", "3.00"]
    puzzle, *_ = (line.split() for line in text.splitlines() if line.strip().startswith("puzzlemix"))
    assert puzzle[:12] == ["puzzlemix", "0", "1", "97.00", "±", "-", "91.00", "±", "-", "95.00", "±", "-"]
    assert "not finished" not in text
    lines = read_csv(tmp_path)
    assert [line["mix"] for line in lines] == ["none", "puzzlemix"]
    accuracies = np.array([0.90, 0.93, 0.96])
    assert float(lines[0]["accuracy_mean"]) == pytest.approx(accuracies.mean(), rel=1e-12)
    assert float(lines[0]["accuracy_sd"]) == pytest.approx(accuracies.std(ddof=1), rel=1e-12)
    assert (lines[0]["seeds"], lines[0]["runs"], lines[1]["accuracy_sd"]) == ("0 1 2", "3", "")
    markdown = (tmp_path / "summary_table.md").read_text().splitlines()
    assert markdown[2].startswith("| none | 0 1 2 | 3 | 93.00 ± 3.00 | - | - |")
    assert {line.count("|") for line in markdown[:4]} == {markdown[0].count("|")}
    with Image.open(tmp_path / "summary_plot.png") as picture:
        assert min(picture.size) > 200
    for file in ("summary_table.csv", "summary_table.md", "summary_plot.png"):
        assert file in text


@pytest.mark.usefixtures("methods")
def test_only_what_differs_by_choice_is_named(tmp_path: Path) -> None:
    """The callback's class follows from the group; seeds and folders differ in every run."""
    runs, _ = find_runs([tmp_path, tmp_path / "a"])
    assert len(runs) == 4
    assert compare_runs(runs).keys == ["mix"]


def test_settings_of_the_command_line_are_named_and_missing_ones_are_the_default(tmp_path: Path) -> None:
    make_run(tmp_path / "1", choices={"mix": "none"})
    for name, beta in (("2", 0.4), ("3", 1.2)):
        make_run(tmp_path / name, settings={"mix.config.beta": beta, "mix.config.grid_sizes": [2, 4]})
    runs, _ = find_runs([tmp_path])
    comparison = compare_runs(runs)
    assert comparison.keys == ["mix", "mix.config.beta", "mix.config.grid_sizes"]
    assert [group.values for group in comparison.groups] == [
        ("none", "default", "default"),
        ("puzzlemix", 0.4, "[2, 4]"),
        ("puzzlemix", 1.2, "[2, 4]"),
    ]


def test_a_difference_that_no_override_explains_still_splits(tmp_path: Path) -> None:
    """A YAML file was edited between the runs."""
    make_run(tmp_path / "1", seed=0)
    folder = make_run(tmp_path / "2", seed=1)
    config = OmegaConf.load(folder / "config.yaml")
    config.epochs = 30
    OmegaConf.save(config, folder / "config.yaml")
    assert compare_runs(find_runs([tmp_path])[0]).keys == ["epochs"]


def test_the_same_seed_twice_is_said(tmp_path: Path) -> None:
    make_run(tmp_path / "1", seed=0)
    make_run(tmp_path / "2", seed=0)
    show(tmp_path)
    assert (read_csv(tmp_path)[0]["seeds"], read_csv(tmp_path)[0]["runs"]) == ("0", "2")


def test_by_pools_the_rest_and_takes_short_names(tmp_path: Path) -> None:
    for index, (beta, seed) in enumerate(((0.4, 0), (0.4, 1), (1.2, 0))):
        make_run(
            tmp_path / str(index),
            seed=seed,
            accuracy=0.5 + index / 10,
            settings={"mix.config.beta": beta, "epochs": 5 + index},
        )
    show(tmp_path, by=["beta"])
    lines = read_csv(tmp_path)
    assert [line["mix.config.beta"] for line in lines] == ["0.4", "1.2"]
    assert [float(line["accuracy_mean"]) for line in lines] == pytest.approx([0.55, 0.7])
    runs, _ = find_runs([tmp_path])
    assert compare_runs(runs, ["mix", "split_seed"]).keys == ["mix", "data.split_seed"]
    with pytest.raises(UserError, match=r"--by gamma is no group or setting .* differ in epochs, mix\.config\.beta"):
        compare_runs(runs, ["gamma"])


def test_unfinished_runs_are_listed_with_what_runs_them_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "done")
    make_unfinished(
        tmp_path / "dead", "mix=none", "mix.layers=[input, net.x]", log="x\n", error="Trace\ndied: KeyError: 'a'\n"
    )
    make_unfinished(tmp_path / "running", "seed=4", log="2026-01-31 12:00:00,123 INFO epoch   3/20  loss 0.1\n\n")
    make_unfinished(tmp_path / "evaluation", "checkpoint=x", job="evaluate")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "summary.json").write_text('{"seed": 0, "ch')
    finished, unfinished = find_runs([tmp_path])
    assert [run.folder.name for run in finished] == ["done"]
    assert [(run.folder.name, run.last_message) for run in unfinished] == [
        ("dead", "died: KeyError: 'a'"),
        ("running", "epoch   3/20  loss 0.1"),
    ]
    text = show(tmp_path)
    assert "2 of 3 runs are not finished" in text
    assert shlex.split(unfinished[0].command) == [
        "python", "-m", "experiments.train", "mix=none", "mix.layers=[input, net.x]", "resume=auto", "hydra.run.dir=dead",
        "hydra.mode=RUN",
    ]  # fmt: skip
    assert unfinished[0].command in " ".join(text.split("\n"))


def test_a_summary_cut_off_does_not_hide_the_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "cut")
    make_unfinished(folder, "seed=0")
    (folder / "summary.json").write_text((folder / "summary.json").read_text()[:40])
    finished, unfinished = find_runs([tmp_path])
    assert (len(finished), len(unfinished)) == (0, 1)


@pytest.mark.parametrize("content", [b"", b"hydra: {jo", b"\xff\xfe\x00", b"- 1"])
def test_files_of_hydra_that_are_cut_off_do_not_hide_the_run(content: bytes, tmp_path: Path) -> None:
    make_unfinished(tmp_path / "cut", "seed=0", log="epoch 3\n")
    (tmp_path / "cut" / "checkpoints").mkdir()
    for name in ("hydra.yaml", "overrides.yaml"):
        (tmp_path / "cut" / ".hydra" / name).write_bytes(content)
    (run,) = find_runs([tmp_path])[1]
    # A list is a list of overrides.
    assert "overrides.yaml cannot be read" in run.last_message or content == b"- 1"
    assert f"hydra.run.dir={tmp_path / 'cut'}" in run.command


def test_scores_that_a_run_does_not_have_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "1", top5=0.99)
    ((run,), _) = find_runs([tmp_path])
    assert run.scores == {
        "accuracy": 0.9, "calibration_error": 0.02, "nll": 0.25, "top5": 0.99, "val_accuracy": 0.8, "epoch_seconds": 1.5,
    }  # fmt: skip
    assert compare_runs([run]).metrics == [
        "accuracy", "top5", "calibration_error", "nll", "epoch_seconds", "val_accuracy",
    ]  # fmt: skip


def test_nothing_found_is_said_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^1$"):
        main([str(tmp_path)])
    printed = capsys.readouterr().out
    for hint in ("No runs found in", str(tmp_path), "summary.json", ".hydra/"):
        assert hint in printed
    with pytest.raises(SystemExit, match=r"^1$"):
        main([str(tmp_path / "absent")])
    assert "no such folder" in capsys.readouterr().out


def test_the_command_line_writes_into_the_first_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "first/1", seed=0)
    make_run(tmp_path / "second/1", seed=1)
    arguments = [str(tmp_path / "first"), str(tmp_path / "second")]
    main([*arguments, "--by", "mix", "--metric", "nll"])
    assert sorted(path.name for path in (tmp_path / "first").glob("summary_*")) == [
        "summary_plot.png", "summary_table.csv", "summary_table.md",
    ]  # fmt: skip
    assert not list((tmp_path / "second").glob("summary_*"))
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^1$"):
        main([*arguments, "--metric", "top5"])
    assert "--metric top5 is in none of the runs; they have accuracy" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "standard deviation" in capsys.readouterr().out
