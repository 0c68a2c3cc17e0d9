"""What is not installed: nothing that a training needs, and a sentence with the command where something else asks for it."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import REPOSITORY, TINY
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from experiments import dashboard
from experiments.common import UserError
from experiments.common.config_checks import EVALUATE, TRAIN, check_settings
from experiments.common.extras import EXTRAS
from experiments.models import build_timm
from experiments.robustness import build_attacks
from experiments.show.image_files import example_images
from hydra_plugins import puzzlemix_sweeper as sweeper

Compose = Callable[..., DictConfig]
# What the other extras than [experiments] bring, by the names that are imported.
OTHERS = (
    "ray", "submitit", "boto3", "optuna", "sqlalchemy", "pyautoattack", "tensorboard", "wandb_workspaces", "timm",
    "huggingface_hub",
)  # fmt: skip
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({OTHERS}))\n"


def requirements(extra: str) -> set[str]:
    """Names of the packages that pyproject.toml lists for an extra."""
    tomllib = pytest.importorskip("tomllib")
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    return {re.split(r"[\[<>=;]", each)[0] for each in listed}


def test_the_extras_that_are_named_install_the_packages() -> None:
    for package, extra in EXTRAS.items():
        assert package in requirements(extra), package
    for extra in ("sweeps", "robustness", "dashboards", "timm"):
        assert requirements(extra) == {package for package in EXTRAS if EXTRAS[package] == extra}


def search(compose: Compose) -> None:
    settings = {key: value for key, value in sweeper.DEFAULTS.items() if not key.startswith("_")}
    sweeper.StudySweeper(**{**settings, "n_jobs": 1}).sweep([])


@pytest.mark.parametrize(
    ("module", "package", "extra", "feature", "use"),
    [
        ("timm", "timm", "timm", "model=timm", lambda compose: check_settings(compose("model=timm", "model.name=x"), TRAIN)),
        ("timm", "timm", "timm", "model=timm", lambda compose: build_timm("resnet18", 10)),
        ("tensorboard", "tensorboard", "dashboards", "logger=tensorboard",
         lambda compose: check_settings(compose("logger=tensorboard"), TRAIN)),
        ("tensorboard", "tensorboard", "dashboards", "logger=tensorboard", lambda compose: check_settings(
            OmegaConf.create({"logger": {"_target_": "pytorch_lightning.loggers.TensorBoardLogger"}}), EVALUATE)),
        ("pyautoattack", "pyautoattack", "robustness", "autoattack", lambda compose: build_attacks(["fgsm_4", "autoattack"])),
        ("pyautoattack", "pyautoattack", "robustness", "strong",
         lambda compose: build_attacks([{"name": "strong", "kind": "autoattack", "eps": "8/255"}])),
        ("skimage", "scikit-image", "experiments", "--examples", lambda compose: example_images()),
        ("optuna", "optuna", "sweeps", "sweep=optuna", search),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_before_anything_is_done(
    module: str, package: str, extra: str, feature: str, use: Callable[[Compose], None], compose_train: Compose,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises((UserError, CompactHydraException), match=rf"{feature} needs {package}, .*\[{extra}\]"):
        use(compose_train)


def test_attacks_that_need_nothing_more_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    assert [*build_attacks(["fgsm_4", "fgsm_8", "pgd_20"])] == ["fgsm_4", "fgsm_8", "pgd_20"]


def test_the_dashboard_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(SystemExit) as ended:
        dashboard.main(["--dry-run"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert re.search(r"needs wandb-workspaces, .*pip install -e '\.\[dashboards\]'", line)


def run_without_others(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_command_starts_without_the_other_extras() -> None:
    names = ("train", "evaluate", "summarize", "report", "show_mixing", "dashboard")
    imports = ", ".join(f"experiments.{name}" for name in names)
    assert run_without_others(f"import {imports}") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [(), ("sweep=seeds", "seed=0,1", "launcher=joblib"), ("sweep=grid", "mix=none,puzzlemix")]
)
def test_training_needs_no_other_extra(words: tuple[str, ...], tmp_path: Path) -> None:
    """What is not blocked in the processes of launcher=joblib is not asked for by them either: they run the same code."""
    command = ["experiments.train", *words, *TINY, f"paths.runs={tmp_path}"]
    code = "import runpy\nsys.argv = {0}\nrunpy.run_module(sys.argv[0], run_name='__main__', alter_sys=False)"
    run_without_others(code.format(command))
    assert len([*tmp_path.rglob("summary.json")]) == (2 if words else 1)
