"""The final summary of a run: true sentences, and commands that can be pasted."""

import io
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from made_up_runs import make_run
from omegaconf import DictConfig
from rich.console import Console

from experiments.runs.summary import Summary, describe, next_commands, print_final_summary

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


def test_the_commands_are_of_this_run(tmp_path: Path, compose_train: Compose) -> None:
    choices = {"mix": "puzzlemix", "experiment": "cifar100_preactresnet18_puzzlemix"}
    summary = made_up(tmp_path / "run", choices, **{"mix.prob": 0.5})
    train, evaluate, show = (shlex.split(command) for command in next_commands(summary, Path("runs/a b")))
    assert sorted(train[3:]) == [
        "experiment=cifar100_preactresnet18_puzzlemix", "mix.prob=0.5", "mix=puzzlemix", "seed=1"
    ]  # fmt: skip
    assert compose_train(*train[3:]).seed == 1
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
