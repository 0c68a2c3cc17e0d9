"""Commands as a user types them."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


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
