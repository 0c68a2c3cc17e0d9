"""The documentation is true: its code runs, its commands parse, its tables agree with the code."""

import argparse
import ast
import dataclasses
import inspect
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import documents
import jsonargparse
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_puzzlemix as pm

DOCS, REPOSITORY = documents.DOCS, documents.REPOSITORY
COMMANDS = sorted({command for page in documents.PAGES for command in documents.commands(page)})


class Classifier(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What a reader has: a network, a module, data, an optimizer. Trainers stop after two batches."""
    monkeypatch.chdir(tmp_path)
    real = pl.Trainer

    def short_trainer(**arguments: Any) -> pl.Trainer:
        return real(**arguments, fast_dev_run=2, accelerator="cpu", enable_progress_bar=False)

    monkeypatch.setattr(pl, "Trainer", short_trainer)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    images, targets = torch.rand(8, 3, 32, 32), torch.arange(8) % 5
    return {
        "net": net,
        "model": Classifier(net),
        "train_loader": DataLoader(TensorDataset(images, targets), batch_size=4),
        "optimizer": torch.optim.SGD(net.parameters(), 0.1),
        "images": images,
        "targets": targets,
    }


WITH_PYTHON = [page for page in documents.PAGES if documents.blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_python_blocks_run_in_order(page: Path, given: dict[str, Any]) -> None:
    for block in documents.blocks(page, "python"):
        # Runs in test_recipes.py where transformers is installed.
        if "PuzzleMixTrainer" in block:
            continue
        exec(compile(block, page.name, "exec"), given)
    if page.stem == "callback":
        assert given["callback"].last.targets.shape == (4, 5)
        assert Path("mixes.png").stat().st_size > 0
        assert given["FixedGrid"]().draw(torch.zeros(4, 3, 32, 32)).blocks_per_side == 4
    if page.stem == "saliency":
        # A linear filter by hand: the middle of an image of one bright pixel differs from its neighborhood by 8/9 of it.
        spot = torch.zeros(1, 3, 5, 5)
        spot[..., 2, 2] = 9.0
        assert given["edges"](None, spot, None)[0, 2, 2] == pytest.approx(8.0)


def slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_readme_links_exist() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (REPOSITORY / "README.md").read_text())
    local = [link for link in links if not link.startswith("http")]
    assert len(local) > 15
    for link in local:
        path, _, anchor = link.partition("#")
        target = REPOSITORY / (path or "README.md")
        assert target.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
            assert anchor in [slug(heading) for heading in headings], link


def instantiate(node: Any) -> Any:
    """Make what LightningCLI would make of a block."""
    if isinstance(node, list):
        return [instantiate(each) for each in node]
    if not isinstance(node, dict):
        return node
    if "class_path" not in node:
        return {key: instantiate(value) for key, value in node.items()}
    module, _, name = node["class_path"].rpartition(".")
    assert module == "lightning_puzzlemix"
    return getattr(pm, name)(**instantiate(node.get("init_args", {})))


def test_yaml_blocks_instantiate() -> None:
    hydra, omegaconf = pytest.importorskip("hydra.utils"), pytest.importorskip("omegaconf")
    made = []
    for page in documents.PAGES:
        for block in documents.blocks(page, "yaml"):
            content = omegaconf.OmegaConf.create(block)
            if "class_path" in block:
                made += instantiate(omegaconf.OmegaConf.to_container(content))["trainer"]["callbacks"]
            elif page.stem == "callback":
                made.append(hydra.instantiate(content).callback)
            elif "_target_" in content:
                hydra.get_object(content["_target_"])
    assert [callback.prob for callback in made] == [0.5, 0.5]
    assert {callback.config.std for callback in made} == {(0.267, 0.256, 0.276)}


@pytest.fixture
def compose() -> Iterator[Callable[..., None]]:
    """Composes a config as a command would and resolves all of it that needs no run."""
    pytest.importorskip("hydra")
    from hydra import compose, initialize_config_dir
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from experiments import evaluate, runs

    def compose_first_job(name: str, overrides: list[str]) -> None:
        jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)[0]
        compose(name, [word for word in jobs[0] if not word.startswith("hydra.")], return_hydra_config=True)

    evaluate.register()
    runs.store_permissive_groups()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        yield compose_first_job
    GlobalHydra.instance().clear()


class ParsedError(Exception):
    """A command line was parsed; what follows would execute it."""


def parse_only(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a module up to the point where its own parser has accepted the arguments."""
    for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):

        def parse_and_stop(self: Any, *args: Any, real: Any = parser.parse_args, **kwargs: Any) -> None:
            real(self, *args, **kwargs)
            raise ParsedError

        monkeypatch.setattr(parser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(ParsedError):
        runpy.run_module(module, run_name="__main__")


def test_there_are_commands() -> None:
    assert {documents.words(command)[0] for command in COMMANDS} >= {
        f"experiments.{name}" for name in ("train", "evaluate", "summarize", "benchmark", "report", "show_mixing")
    }


# Of what the modules import.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str, compose: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    module, arguments = documents.words(command)
    assert find_spec(module) is not None, f"there is no {module}"
    if module in ("experiments.train", "experiments.evaluate"):
        compose(module.rpartition(".")[2], [word for word in arguments if word not in ("--multirun", "--help")])
        return
    try:
        parse_only(module, arguments, monkeypatch)
    except ModuleNotFoundError as error:
        pytest.skip(f"{module} needs {error.name}, which is not installed")


def test_a_misspelled_command_is_refused(compose: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="epoch"):
        compose("train", ["epoch=3"])
    with pytest.raises(SystemExit):
        parse_only("experiments.summarize", ["runs", "--bye", "data"], monkeypatch)


def value_of(cell: str) -> Any:
    """The default that a table shows; of arithmetic only the quotients of pixels."""
    (text,) = documents.code_in(cell)
    numbers = text.split(" / ")
    return int(numbers[0]) / int(numbers[1]) if len(numbers) == 2 else ast.literal_eval(text)


@pytest.mark.parametrize(
    ("section", "defaults"),
    [
        ("PuzzleMixConfig", {field.name: field.default for field in dataclasses.fields(pm.PuzzleMixConfig)}),
        (
            "PuzzleMixCallback",
            {name: parameter.default for name, parameter in inspect.signature(pm.PuzzleMixCallback).parameters.items()},
        ),
    ],
)
def test_hyperparameters_have_their_true_defaults(section: str, defaults: dict[str, Any]) -> None:
    rows = documents.table_rows(DOCS / "hyperparameters.md", section)
    shown = {documents.code_in(row[0])[0]: value_of(row[1]) for row in rows}
    assert shown == defaults
    assert list(shown) == list(defaults)


def strings_of_the_source() -> set[str]:
    """All strings in plugin, study and Hydra plugins, with a gap for each value: f-strings, and plain ones."""
    found = set()
    for package in ("lightning_puzzlemix", "experiments", "hydra_plugins"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                    found.add(documents.normalized("".join(map(str, parts))))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(documents.normalized(node.value))
    return found


def test_quoted_messages_begin_like_those_of_the_source() -> None:
    source = strings_of_the_source()
    quoted = [code for row in documents.table_rows(DOCS / "troubleshooting.md") for code in documents.code_in(row[0])]
    assert len(quoted) > 60
    unknown = [text for text in quoted if not any(each.startswith(text.removesuffix("…").strip()) for each in source)]
    assert not unknown
