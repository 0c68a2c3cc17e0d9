"""Secrets in no file that a run leaves, and in nothing that it prints."""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import TINY
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import experiments.evaluate
import experiments.train
from experiments.common.masking import MASK, MaskHydraFiles

KEY, PASSWORD = "k3y0fthekingdomk3y0fthekingdomk3y0fthe00", "open-sesame-42"
SHORT = (*TINY, "epochs=1", "mix=none")


@pytest.fixture(autouse=True)
def _own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment and Hydra's state of a new process."""
    monkeypatch.setattr("experiments.common.masking._known", set())
    environment = dict(os.environ)
    yield
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    for name in {*os.environ} - {*environment}:
        del os.environ[name]


def type_command(module: object, *arguments: str) -> None:
    """What `python -m` does with these arguments, in this process."""
    before, sys.argv = sys.argv, ["train.py", *arguments]
    try:
        module.command()  # type: ignore[attr-defined]
    finally:
        sys.argv = before


def files_with(folder: Path, *secrets: str) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets)
    ] + [str(path) for path in folder.rglob("*") if any(secret in path.name for secret in secrets)]


@pytest.mark.usefixtures("offline_wandb")
def test_a_run_with_a_key_leaves_it_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    given = (
        *SHORT, "logger=wandb", f"logger.settings.api_key={KEY}", f"+db.password={PASSWORD}",
        f"+store='https://me:{PASSWORD}@localhost/x'", "name='run of ${logger.settings.api_key}'", f"hydra.run.dir={folder}",
    )  # fmt: skip
    type_command(experiments.train, *given)
    assert files_with(folder, KEY, PASSWORD) == []
    config = OmegaConf.load(folder / "config.yaml")
    assert (config.logger.settings.api_key, config.db.password, config.name) == (MASK, MASK, f"run of {MASK}")
    # The same command again finds the run finished; another one finds that it is another run.
    type_command(experiments.train, *given, "resume=auto")
    said = capfd.readouterr()
    assert "skipped:" in said.out
    assert KEY not in said.out + said.err
    assert PASSWORD not in said.out + said.err
    # The printed command has the key asked for, in a shell that does not have it.
    overrides = json.loads((folder / "summary.json").read_text())["overrides"]
    assert "logger.settings.api_key=${oc.env:PUZZLEMIX_SECRET_LOGGER_SETTINGS_API_KEY}" in overrides
    command = next(line for line in said.out.splitlines() if "-m experiments.train" in line)
    for name in [name for name in os.environ if name.startswith("PUZZLEMIX_SECRET_")]:
        del os.environ[name]
    with pytest.raises(SystemExit):
        type_command(experiments.train, *shlex.split(command)[3:])
    assert "was kept out of the run's files: give " in " ".join("".join(capfd.readouterr()).split())
    # What an evaluation writes into the same folder.
    type_command(experiments.evaluate, f"checkpoint={folder}", "attacks=[]", "limit=4", "device=cpu", f"+x.token={KEY}")
    assert (folder / "evaluation" / "evaluation.json").is_file()
    assert files_with(folder, KEY, PASSWORD) == []


def test_a_sweep_with_a_key_in_an_option_of_one_s_own_leaves_it_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "options" / "experiment").mkdir(parents=True)
    option = f"# @package _global_\nstore: {{password: {PASSWORD}, url: 'https://me:{PASSWORD}@host'}}\n"
    (tmp_path / "options" / "experiment" / "own.yaml").write_text(option)
    folder = tmp_path / "sweep"
    type_command(
        experiments.train, "--config-dir", str(tmp_path / "options"), "-m", *SHORT, "experiment=own", "seed=3",
        "logger=tensorboard", f"+a.token={KEY}", "+b.secret='{b,c'", f"hydra.sweep.dir={folder}",
    )  # fmt: skip
    said = capfd.readouterr()
    (run,) = [path.parent for path in folder.rglob("summary.json")]
    assert OmegaConf.load(run / ".hydra" / "config.yaml").store.password == MASK
    assert (folder / "multirun.yaml").is_file()
    assert files_with(folder, KEY, PASSWORD) == []
    assert KEY not in said.out + said.err
    assert PASSWORD not in said.out + said.err
    for path in run.glob("checkpoints/*.ckpt"):
        assert KEY not in str(torch.load(path, weights_only=True).get("hyper_parameters"))


def test_what_a_job_died_of_is_masked(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with pytest.raises(SystemExit):
        type_command(
            experiments.train,
            "-m",
            *SHORT,
            f"+db.key={KEY}",
            "loss='no ${db.key}'",
            "seed=3",
            f"hydra.sweep.dir={folder}",
        )
    (error,) = folder.rglob("error.txt")
    assert "failed: " in error.read_text()
    assert files_with(folder, KEY) == []


def test_hydra_s_files_are_masked_in_their_place(tmp_path: Path) -> None:
    path = tmp_path / "overrides.yaml"
    path.write_text(f"- seed=1\n- +db.password={PASSWORD}\n- db.token=${{oc.env:TOKEN}}\n")
    folders = {
        "runtime": {"output_dir": str(tmp_path.parent)},
        "output_subdir": tmp_path.name,
        "sweep": {"dir": "none"},
    }
    config = OmegaConf.create({"hydra": folders})
    MaskHydraFiles().on_job_start(config)
    assert path.read_text() == f"- seed=1\n- +db.password={MASK}\n- db.token=${{oc.env:TOKEN}}\n"
    before = path.stat().st_mtime_ns
    MaskHydraFiles().on_job_start(config)
    assert path.stat().st_mtime_ns == before
    assert list(tmp_path.iterdir()) == [path]
