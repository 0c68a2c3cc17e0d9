"""Commands as a user types them."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = (
    "epochs=2",
    "model.width=4",
    "scheduler.warmup_epochs=0",
    "trainer=cpu",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=2",
    "trainer.log_every_n_steps=1",
)
# What the other extras than [experiments] bring, by the names that are imported.
OTHER_EXTRAS = (
    "ray", "submitit", "boto3", "optuna", "sqlalchemy", "pyautoattack", "tensorboard", "wandb_workspaces", "timm",
    "huggingface_hub",
)  # fmt: skip


def without_other_extras(folder: Path) -> dict[str, str]:
    """For `launch`: an environment in which nothing that is in another extra than [experiments] can be imported."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({OTHER_EXTRAS}))\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


def launch(module: str, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m experiments.<module>` in the repository's root."""
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *overrides],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
