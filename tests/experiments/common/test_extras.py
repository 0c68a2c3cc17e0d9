"""What is not installed: nothing that a training needs, and a sentence with the command where something else asks for it."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import REPOSITORY, TINY, launch, without_other_extras
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from experiments.common import UserError
from experiments.common.config_checks import TRAIN, check_settings
from experiments.common.extras import EXTRAS
from experiments.models import build_timm
from experiments.robustness import build_attacks
from experiments.show.image_files import example_images
from hydra_plugins import puzzlemix_sweeper as sweeper

Compose = Callable[..., DictConfig]


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
            OmegaConf.create({"logger": {"_target_": "pytorch_lightning.loggers.TensorBoardLogger"}}), {})),
        ("pyautoattack", "pyautoattack", "robustness", "autoattack", lambda compose: build_attacks(["fgsm_4", "autoattack"])),
        ("pyautoattack", "pyautoattack", "robustness", "strong",
         lambda compose: build_attacks([{"name": "strong", "kind": "autoattack", "eps": "8/255"}])),
        ("gco", "gco-wrapper", "gco", "solver=gco", lambda compose: check_settings(compose("mix.config.solver=gco"), TRAIN)),
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


def test_the_dashboard_names_what_is_missing(tmp_path: Path) -> None:
    done = launch("dashboard", "--dry-run", **without_other_extras(tmp_path / "blocked"))
    assert done.returncode == 1
    assert done.stderr == ""
    assert re.fullmatch(r".* needs wandb-workspaces, .*pip install -e '\.\[dashboards\]'\n", done.stdout)


@pytest.mark.slow
def test_what_is_missing_does_not_keep_from_sweeps_on_one_machine(tmp_path: Path) -> None:
    """One run, its evaluation and the examples are tested in this way beside their other tests."""
    blocked = without_other_extras(tmp_path / "blocked")
    words = ("sweep=methods", "mix=none,puzzlemix", "seed=0", "launcher=joblib")
    done = launch("train", *words, *TINY, f"paths.runs={tmp_path}", **blocked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len([*tmp_path.rglob("summary.json")]) == 2


@pytest.mark.slow
def test_a_search_without_optuna_ends_in_a_sentence(tmp_path: Path) -> None:
    blocked = without_other_extras(tmp_path / "blocked")
    done = launch("train", "sweep=optuna", *TINY, f"paths.runs={tmp_path}", **blocked)
    assert done.returncode == 1
    assert done.stdout.strip() == "sweep=optuna needs optuna, which is not installed: pip install -e '.[sweeps]'"
    assert not [*tmp_path.rglob("summary.json")]
