"""Commands that are printed: read by a shell and by Hydra as what was meant, and complete."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.conf import ConfigSourceInfo
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import make_run
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from experiments.common.commands import as_typed_here, resume_command, training_command
from experiments.common.console import short
from experiments.common.overrides import override
from experiments.data import MissingDataError, TinyImageNetDataModule
from experiments.runs.summary import Summary, next_commands

Compose = Callable[..., DictConfig]
# What somebody calls a folder.
NAMES = [
    "a b", "lr=0.1,wd=0", "it's", "\"quoted\"", "$HOME", "${HOME}", "a,b", "[1]", "{a}", "(x)", "null", "1", "true", "1e3",
    "größe", "~", " ends with a blank ", "a\\b", "back\\", "a\\'b", "#3", "a:b", "x;y", "*", "`date`", "-1", "%", "!x", "a\nb",
]  # fmt: skip


def read_by_a_shell(command: str) -> list[str]:
    """Words of a command, as a real shell hands them to the program."""
    program = f"{shlex.quote(sys.executable)} -c 'import sys; sys.stdout.write(chr(0).join(sys.argv[1:]))' "
    result = subprocess.run(["/bin/sh", "-c", program + command], capture_output=True, text=True, check=True)
    return result.stdout.split("\0")


def read_by_hydra(words: str) -> object:
    """What a setting holds that is given like this; keys with dots are not resolved further."""
    parsed = OverridesParser.create().parse_override(words)
    config = OmegaConf.create({"key": None})
    OmegaConf.update(config, "key", parsed.value())
    return config.key


@pytest.mark.parametrize("name", NAMES)
def test_any_folder_can_be_pasted(name: str) -> None:
    folder = Path("/runs") / name if not name.startswith("~") else Path(name)
    for command in (resume_command([], folder), shlex.join([override("checkpoint", folder)])):
        words = read_by_a_shell(command)
        (given_folder,) = (word for word in words if word.startswith(("hydra.run.dir=", "checkpoint=")))
        assert read_by_hydra(given_folder) == str(folder)
        assert read_by_hydra(override("key", name)) == name


@given(st.text("ab\\'\"${}=,[]() :~é", max_size=9))
def test_any_text_is_read_back(text: str) -> None:
    assert read_by_hydra(override("key", text)) == text


def test_a_plain_folder_stays_readable() -> None:
    assert (
        override("checkpoint", "runs/digits_none/2026-01-31_12-00-00")
        == "checkpoint=runs/digits_none/2026-01-31_12-00-00"
    )


def test_the_next_commands_keep_the_places_and_the_settings(tmp_path: Path) -> None:
    settings = {"paths.data_dir": "'/mnt/my data'", "data.num_workers": 2, "trainer.precision": 16}
    summary = Summary.load(make_run(tmp_path / "run", choices={"mix": "puzzlemix"}, settings=settings) / "summary.json")
    train, evaluate, _ = (shlex.split(command) for command in next_commands(summary, tmp_path / "lr=0.1"))
    assert {"paths.data_dir='/mnt/my data'", "data.num_workers=2", "trainer.precision=16", "seed=1"} <= set(train)
    assert "seed=0" not in train
    assert read_by_hydra(evaluate[-1]) == str(tmp_path / "lr=0.1" / "checkpoints" / "last.ckpt")


def test_what_was_typed_beside_the_settings_is_kept(compose_train: Compose) -> None:
    """A folder with options of one's own, and settings of Hydra's; not those that belong to that one start."""
    compose_train("seed=3")
    source = ConfigSourceInfo(path="/my conf", schema="file", provider="command-line")
    with read_write(HydraConfig.get()), open_dict(HydraConfig.get()):
        HydraConfig.get().overrides.hydra = [
            "hydra.searchpath=[file:///x]", "hydra.mode=MULTIRUN", "hydra.run.dir=/old", "hydra/launcher=joblib",
            "hydra.sweep.dir=/s", "hydra.job.chdir=true",
        ]  # fmt: skip
        HydraConfig.get().runtime.config_sources = [source]
    words = shlex.split(training_command(["seed=3"]))
    assert words[3:] == [
        "--config-dir", "/my conf", "seed=3", "hydra.searchpath=[file:///x]", "hydra.job.chdir=true"
    ]  # fmt: skip


def test_in_another_working_folder_paths_are_those_of_where_the_command_was_typed(
    compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose_train()
    with read_write(HydraConfig.get()), open_dict(HydraConfig.get()):
        HydraConfig.get().job.chdir = True
        HydraConfig.get().runtime.cwd = str(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs" / "a")
    assert short(tmp_path / "runs" / "a") == Path("runs/a")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    assert as_typed_here("python -m x") == "venv/python -m x"


def test_the_download_of_a_missing_data_set_can_be_pasted(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as missing:
        TinyImageNetDataModule(root=tmp_path / "my data").setup()
    command = next(line for line in str(missing.value).splitlines() if "curl" in line).partition("curl ")[2]
    assert shlex.split(command)[1] == str(tmp_path / "my data" / "tiny-imagenet-200.zip")
