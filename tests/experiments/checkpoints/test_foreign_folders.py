"""Run folders of somebody else: nothing that they name is run, read out of the environment, fetched, or written over."""

import contextlib
import inspect
import logging
import os
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from command_line import launch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

import experiments.data
import experiments.evaluate
from experiments.checkpoints import choose_output_dir, complete_config, find_checkpoint
from experiments.checkpoints.foreign_config import ALLOWED, allowed_names, checked_group
from experiments.checkpoints.weights import load_weights, read_checkpoint
from experiments.common.errors import UserError
from experiments.common.plain_yaml import read_plain_yaml
from experiments.data import CIFAR10DataModule, PhasedDataModule
from experiments.html_report import write_report
from experiments.html_report.run_folder import read_run
from experiments.models import PreActResNet
from experiments.show import load_network
from experiments.sweep_results.runs import UnfinishedRun, find_runs
from experiments.training.module import Classifier

REPOSITORY = Path(__file__).resolve().parents[3]
DATA = {"_target_": "experiments.data.DigitsDataModule"}
MODEL = {"_target_": "experiments.models.PreActResNet", "width": 4}
Compose = Callable[..., DictConfig]


class Calls:
    """Pickled as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class Trusted(PreActResNet):
    """A network of a user's own."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_model_summary=False)
    trainer.strategy.connect(Classifier(PreActResNet(10, in_channels=1, width=4), num_classes=10))
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A run folder whose config is yet to be written."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "best.ckpt").symlink_to(checkpoint)
    return tmp_path / "run"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def compose_evaluate() -> Iterator[Compose]:
    experiments.evaluate.register()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        yield lambda *overrides: compose("evaluate", list(overrides))
    GlobalHydra.instance().clear()


def write(folder: Path, **groups: Any) -> Path:
    OmegaConf.save(OmegaConf.create({"data": DATA, "model": MODEL, **groups}), folder / "config.yaml")
    return folder


def system(target: str, marker: Path) -> dict[str, Any]:
    return {"_target_": target, "command": f"touch '{marker}'"}


ATTACKS: dict[str, Callable[[Path], Any]] = {
    "system": lambda marker: system("os.system", marker),
    "positional": lambda marker: {"_target_": "os.system", "_args_": [f"touch '{marker}'"]},
    "torch.load": lambda marker: {"_target_": "torch.load", "f": str(marker.with_suffix(".pkl")), "weights_only": False},
    "touch": lambda marker: {"_target_": "pathlib.Path.touch", "self": str(marker)},
    "through torchvision": lambda marker: {"_target_": "torchvision.datasets.utils.os.mkdir", "path": str(marker)},
    "through timm": lambda marker: {
        "_target_": "timm.models._helpers.torch.load",
        "f": str(marker.with_suffix(".pkl")),
        "weights_only": False,
    },
    "through this project": lambda marker: {"_target_": "experiments.data.download.os.mkdir", "path": str(marker)},
    "nested call": lambda marker: {**MODEL, "block": {"_target_": "os.mkdir", "path": str(marker)}},
    "through an allowed class": lambda marker: system("experiments.data.ImageDataModule.setup.__globals__", marker),
    "like an allowed name": lambda marker: system("experiments.models.PreActResNet.os.system", marker),
    "hydra": lambda marker: {"_target_": "hydra.utils.get_method", "path": "os.system"},
    "nested": lambda marker: {**MODEL, "block": system("os.system", marker)},
    "in a list": lambda marker: {**MODEL, "depths": [1, {"deep": [system("os.system", marker)]}]},
    "nested hydra": lambda marker: {**MODEL, "block": {"_target_": "hydra.utils.instantiate", "config": {}}},
    "partial": lambda marker: {**MODEL, "_partial_": True},
    "positional of an allowed class": lambda marker: {**MODEL, "_args_": [system("os.system", marker)]},
    "not recursive": lambda marker: {**MODEL, "_recursive_": False},
    "no name": lambda marker: {**MODEL, "_target_": ["os.system"]},
    "environment": lambda marker: {**MODEL, "width": "${oc.env:A_SECRET}"},
    "environment in a target": lambda marker: {"_target_": "${oc.env:A_SECRET}"},
    "decode": lambda marker: {**MODEL, "width": "${oc.decode:${oc.env:A_SECRET}}"},
    "own resolver": lambda marker: {**MODEL, "width": "${evaluation_dir:a,b}"},
    "another setting": lambda marker: {**MODEL, "width": "${data.seed}"},
    "interpolated key": lambda marker: {**MODEL, "${oc.env:A_SECRET}": 1},
    "a class of another kind": lambda marker: {"_target_": "experiments.training.module.Classifier"},
    "a data set for a network": lambda marker: DATA,
    "workers": lambda marker: {**MODEL, "num_workers": 10**6},
    "no mapping": lambda marker: "os.system",
}  # fmt: skip


@pytest.mark.parametrize("group", ["data", "model"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_that_a_run_folder_names_is_run(
    attack: str, group: str, folder: Path, marker: Path, compose_evaluate: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "hunter22")
    marker.with_suffix(".pkl").write_bytes(pickle.dumps(Calls(f"touch '{marker}'")))
    node = ATTACKS[attack](marker)
    if attack == "a data set for a network" and group == "data":
        node = MODEL
    # A string with an interpolation must not be looked up while the file is made.
    (folder / "config.yaml").write_text(OmegaConf.to_yaml({"data": DATA, "model": MODEL, group: node}, resolve=False))
    for attempt in (
        lambda: load_network(str(folder)),
        lambda: experiments.evaluate.run(
            compose_evaluate(f"checkpoint={folder}", "device=cpu", "attacks=[]", f"output_dir={folder / 'out'}")
        ),
    ):
        with pytest.raises(UserError, match=str(folder / "config.yaml")) as refusal:
            attempt()
        assert f"{group}=NAME" in str(refusal.value) or "give " in str(refusal.value)
        assert "hunter22" not in str(refusal.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    "attack", ["torch.load", "touch", "through torchvision", "through timm", "through this project", "nested call"]
)
def test_the_attacks_would_work(attack: str, marker: Path) -> None:
    """Hydra itself refuses os.system and the like by now, and what leads to the same by another way it does not."""
    marker.with_suffix(".pkl").write_bytes(pickle.dumps(Calls(f"touch '{marker}'")))
    # The network has no use for what the nested call gives.
    with contextlib.suppress(InstantiationException):
        instantiate(OmegaConf.create(ATTACKS[attack](marker)))
    assert marker.exists()


@pytest.mark.slow
def test_a_refusal_says_what_is_allowed_and_what_to_give(folder: Path, marker: Path, tmp_path: Path) -> None:
    write(folder, model=system("os.system", marker))
    ended = launch("evaluate", f"checkpoint={folder}", "attacks=[]", "device=cpu", f"output_dir={tmp_path / 'out'}")
    assert ended.returncode == 1
    said = " ".join((ended.stdout + ended.stderr).split())
    assert "Traceback" not in said
    for words in ("config.yaml: model._target_ is 'os.system'", "experiments.models.PreActResNet", "allow=[os.system]"):
        assert words in said
    assert not marker.exists()


def test_a_network_of_one_s_own_is_allowed_by_its_name(folder: Path) -> None:
    name = f"{__name__}.Trusted"
    write(folder, model={**MODEL, "_target_": name})
    with pytest.raises(UserError, match=rf"--allow {name}"):
        load_network(str(folder))
    assert type(load_network(str(folder), allow=[name])[0]).__name__ == "Trusted"
    cfg = complete_config(OmegaConf.create({"data": {}, "model": MODEL}), find_checkpoint(str(folder)))
    assert cfg.model == MODEL


def test_every_option_of_conf_can_be_built_from_a_run_folder() -> None:
    for group in ("data", "model"):
        named = {OmegaConf.load(path)["_target_"] for path in (REPOSITORY / "conf" / group).glob("*.yaml")}
        assert named <= set(allowed_names(group))


def test_first_weights_and_downloads_of_a_run_are_left_out(tmp_path: Path) -> None:
    path, library = tmp_path / "config.yaml", "experiments.models.build_"
    timm = {"_target_": f"{library}timm", "name": "resnet18", "pretrained": True, "checkpoint_path": "/x.pth"}
    timm["pretrained_cfg"] = {"url": "http://localhost/x", "custom_load": True}
    assert checked_group(path, "model", timm) == {"_target_": f"{library}timm", "name": "resnet18"}
    torchvision = {"_target_": f"{library}torchvision", "name": "inception_v3", "weights": "DEFAULT"}
    assert checked_group(path, "model", torchvision) == {
        "_target_": f"{library}torchvision", "name": "inception_v3", "transform_input": True,
    }  # fmt: skip
    cifar = {"_target_": "experiments.data.CIFAR10DataModule", "root": str(tmp_path / "chosen"), "download": True}
    data: CIFAR10DataModule = instantiate(checked_group(path, "data", cifar))
    data.prepare_data()
    assert not (tmp_path / "chosen").exists()
    phases = [{"_target_": "experiments.data.Phase", "until": 1, "data": cifar}]
    nested = checked_group(path, "data", {"_target_": "experiments.data.PhasedDataModule", "phases": phases})
    built: PhasedDataModule = instantiate(nested)
    assert built.last.download is False
    downloading = {
        name for name in ALLOWED["data"] if "download" in inspect.signature(getattr(experiments.data, name)).parameters
    }
    assert "TinyImageNetDataModule" in downloading
    for name in downloading:
        assert checked_group(path, "data", {"_target_": f"experiments.data.{name}"})["download"] is False


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18", "local-dir:/tmp", "../resnet18", "os.system"])
def test_a_network_of_timm_is_one_of_its_own(name: str, folder: Path) -> None:
    write(folder, model={"_target_": "experiments.models.build_timm", "name": name})
    with pytest.raises(Exception, match="must be a network of timm"):
        load_network(str(folder))


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefghijklmnopqrst", "bcdefghijklmnopqrstu", strict=True)
)


@pytest.mark.parametrize(
    "text",
    ["data: !!python/object/apply:os.system ['touch MARKER']", "data: !!python/name:os.system", LAUGHS, "a: &a {b: *a}",
     "a: " + "[" * 5000, "a: 1\na: 2", "a: " + "x" * 5_000_000, "\x00", "data: [", "a: !unknown 1"],
    ids=["object", "name", "laughs", "cycle", "deep", "twice", "large", "binary", "torn", "tag"],
)  # fmt: skip
def test_hostile_yaml_is_refused(text: str, folder: Path, marker: Path) -> None:
    (folder / "config.yaml").write_text(text.replace("MARKER", str(marker)))
    with pytest.raises(UserError, match=r"config\.yaml cannot be read: .{3}"):
        read_plain_yaml(folder / "config.yaml")
    with pytest.raises(UserError):
        load_network(str(folder))
    assert not marker.exists()


def test_plain_yaml_reads_what_omegaconf_writes(tmp_path: Path) -> None:
    content = {"a": 1e-3, "b": [1, 2.5, None, True, "x: y", "1e-3"], "c": {"d": "${oc.env:HOME}"}, "e": {}}
    OmegaConf.save(OmegaConf.create(content), tmp_path / "a.yaml")
    assert read_plain_yaml(tmp_path / "a.yaml") == content


def test_reading_many_runs_looks_nothing_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "hunter22")
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("- name=${oc.env:A_SECRET}\n- +db.password=sesame\n")
    (folder / ".hydra" / "hydra.yaml").write_text("hydra: {job: {name: train}}\n")
    (folder / "train.log").write_text("2026-01-31 12:00:00,000 INFO api_key=sesame was refused\n")
    write(folder, logger={"api_key": "sesame"})
    _, (run,) = find_runs([folder])
    page = write_report([folder]).read_text()
    for text in (run.command, run.last_message, page):
        assert "hunter22" not in text
        assert "sesame" not in text
    assert "${oc.env:A_SECRET}" in run.command


def test_links_out_of_a_run_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    private = tmp_path / "private.yaml"
    private.write_text("data: private\n")
    (folder / "config.yaml").symlink_to(private)
    with pytest.raises(UserError, match=r"is a link to .*private\.yaml, out of its folder"):
        load_network(str(folder))
    (folder / "config.yaml").unlink()
    write(folder)
    (folder / "evaluation").mkdir()
    assert choose_output_dir(str(folder), "fallback") == str(folder / "evaluation")
    (folder / "evaluation" / "evaluation.json").symlink_to(private)
    assert choose_output_dir(str(folder), "fallback") == "fallback"
    (folder / "evaluation" / "evaluation.json").unlink()
    (folder / "images.png").symlink_to(private)
    (folder / "report.html").symlink_to(private)
    assert read_run(UnfinishedRun(folder=folder, command="", last_message=""))["image"] is None
    with pytest.raises(UserError, match=r"report\.html is a link"):
        write_report([folder])
    assert private.read_text() == "data: private\n"


def state_of_the_process() -> dict[str, Any]:
    """What a library must leave as it is."""
    loggers = [
        logging.getLogger(),
        *(logging.getLogger(name) for name in ("torch", "pytorch_lightning", "matplotlib", "timm")),
    ]
    return {
        "dtype": torch.get_default_dtype(), "torch": torch.get_rng_state().tolist(), "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "threads": torch.get_num_threads(),
        "benchmark": torch.backends.cudnn.benchmark, "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "safe": sorted(map(str, torch.serialization.get_safe_globals())), "environment": dict(os.environ), "folder": Path.cwd(),
        "figures": dict(mpl.rcParams), "warnings": list(warnings.filters), "levels": [each.level for each in loggers],
    }  # fmt: skip


def test_evaluating_leaves_the_process_as_it_was(folder: Path, compose_evaluate: Compose) -> None:
    write(folder)
    cfg = compose_evaluate(f"checkpoint={folder}", "device=cpu", "limit=4", f"output_dir={folder / 'evaluation'}")
    # What libraries change when they are imported is not of this run.
    experiments.evaluate.run(cfg)
    before = state_of_the_process()
    experiments.evaluate.run(cfg)
    load_network(str(folder))
    write(folder, model={"_target_": "os.system"})
    with pytest.raises(UserError):
        load_network(str(folder))
    after = state_of_the_process()
    assert {name for name in before if before[name] != after[name]} == set()


def damaged(weights: dict[str, torch.Tensor], name: str, kind: str) -> dict[str, torch.Tensor]:
    """Weights of which the last but one cannot be used."""
    value = weights[name]
    wrong = {
        "shape": lambda: torch.zeros(*value.shape, 2),
        "sparse": lambda: value.to_sparse(),
        "complex": lambda: value.to(torch.complex64),
        "whole numbers": lambda: value.to(torch.int64),
        "meta": lambda: value.to("meta"),
        "quantized": lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        "missing": lambda: None,
    }[kind]()
    kept = {key: each for key, each in weights.items() if key != name}
    return kept if wrong is None else {**kept, name: wrong}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["shape", "sparse", "complex", "whole numbers", "meta", "quantized", "missing"])
def test_a_refused_checkpoint_leaves_the_network_as_it_was(kind: str, tmp_path: Path) -> None:
    net = PreActResNet(10, in_channels=1, width=4)
    others = {name: value + 1 for name, value in net.state_dict().items()}
    torch.save({"state_dict": damaged(others, "head.weight", kind)}, tmp_path / "a.tar")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UserError):
        load_weights(net, tmp_path / "a.tar")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_network_that_refuses_weights_midway_keeps_its_own(tmp_path: Path) -> None:
    class Strict(nn.Sequential):
        def load_state_dict(self, weights: Any, **options: Any) -> Any:
            result = super().load_state_dict(weights, **options)
            if bool((self[1].weight > 100).any()):
                raise KeyError("weights above 100")
            return result

    net = Strict(nn.Linear(2, 3), nn.Linear(3, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.save({"state_dict": {name: value + 200 for name, value in before.items()}}, tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"(?s)was left as it was.*weights above 100"):
        load_weights(net, tmp_path / "a.tar")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_threads_that_read_leave_the_list_of_torch_as_it_was(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "x": Calls("true")}, tmp_path / "hostile.tar")
    with torch.serialization.safe_globals([Trusted]):
        before = set(torch.serialization.get_safe_globals())

        def read(path: Path) -> None:
            with contextlib.suppress(UserError):
                read_checkpoint(path)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(read, [checkpoint, tmp_path / "hostile.tar"] * 20))
        assert set(torch.serialization.get_safe_globals()) == before
