"""The final summary of a run: true sentences, and commands that can be pasted."""

import io
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from made_up_runs import make_run
from omegaconf import DictConfig
from rich.console import Console

from experiments.runs.final_summary import describe, next_commands, print_final_summary
from experiments.runs.summary import Summary

Compose = Callable[..., DictConfig]


def made_up(folder: Path, choices: Mapping[str, str], **settings: object) -> Summary:
    return Summary.load(make_run(folder, choices=choices, settings=settings) / "summary.json")


def test_says_what_was_trained_and_how_good_it_is(tmp_path: Path) -> None:
    summary = made_up(tmp_path / "run", {"mix": "cutmix", "data": "cifar10"})
    trained, tested = describe(summary).splitlines()
    assert trained == (
        "Trained the network small (1,000 parameters) on 1,200 images of cifar10, mixed by cutmix: 20 epochs, seed 0."
    )
    assert tested.startswith("Test accuracy: 90.00% of 128 images (last epoch")
    assert "without mixing" in describe(made_up(tmp_path / "other", {"mix": "none"}))


@pytest.mark.parametrize(
    ("choices", "settings", "expected"),
    [
        ({"mix": "puzzlemix"}, {"mix.prob": 0.5, "epochs": 3}, ["epochs=3", "mix=none", "seed=0"]),
        ({"mix": "none"}, {"optimizer.lr": 0.1}, ["mix=puzzlemix", "optimizer.lr=0.1", "seed=0"]),
        (
            {"mix": "puzzlemix", "experiment": "cifar100_preactresnet18_puzzlemix"},
            {"mix.prob": 0.5},
            ["experiment=cifar100_preactresnet18_puzzlemix", "mix.prob=0.5", "mix=puzzlemix", "seed=1"],
        ),
    ],
)
def test_the_first_command_trains_something_to_compare_with(
    choices: Mapping[str, str],
    settings: Mapping[str, object],
    expected: list[str],
    tmp_path: Path,
    compose_train: Compose,
) -> None:
    summary = made_up(tmp_path / "run", choices, **settings)
    train, evaluate, show = (shlex.split(command) for command in next_commands(summary, Path("runs/a b")))
    assert sorted(train[3:]) == expected
    cfg = compose_train(*train[3:])
    assert cfg.seed == (1 if "experiment" in choices else 0)
    assert evaluate[2:] == ["experiments.evaluate", "checkpoint=runs/a b/checkpoints/last.ckpt"]
    assert show[2:] == ["experiments.show_mixing", "--examples"]


def test_a_job_of_a_sweep_says_less(tmp_path: Path) -> None:
    summary, picture = made_up(tmp_path / "run", {}), tmp_path / "run" / "images.png"
    printed = {}
    for alone in (True, False):
        console = Console(file=io.StringIO(), width=40)
        print_final_summary(console, summary, {"picture": picture}, tmp_path / "run", alone=alone)
        printed[alone] = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"picture    {picture}" in printed[True].splitlines()
    assert "Next steps:" in printed[True]
    assert printed[False].splitlines() == [
        *describe(summary).splitlines(), "", f"all files  {tmp_path / 'run'}"
    ]  # fmt: skip
