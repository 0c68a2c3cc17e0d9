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
