"""Packages that only some commands need, and the extra of pyproject.toml that installs each."""

from importlib.util import find_spec

from experiments.common.errors import UserError

EXTRAS = {
    "hydra-joblib-launcher": "experiments", "scikit-image": "experiments",
    "hydra-ray-launcher": "sweeps", "hydra-submitit-launcher": "sweeps", "optuna": "sweeps",
    "pyautoattack": "robustness", "tensorboard": "dashboards", "wandb-workspaces": "dashboards", "timm": "timm",
    "gco-wrapper": "gco",
}  # fmt: skip


class MissingPackageError(UserError):
    """A package is not installed; the message says what needs it, and the command that installs it."""

    def __init__(self, package: str, feature: str) -> None:
        super().__init__(f"{feature} needs {package}, which is not installed: pip install -e '.[{EXTRAS[package]}]'")


def require(package: str, feature: str, module: str | None = None) -> None:
    """Check, without importing it, that a package of `EXTRAS` is there; else a MissingPackageError names `feature`.

    `module` is what is imported, where that is not the name of the package.
    """
    if find_spec(module or package.replace("-", "_")) is None:
        raise MissingPackageError(package, feature)
