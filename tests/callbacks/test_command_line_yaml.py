"""The documented YAML builds the callback on the command lines of both Lightning packages."""

import subprocess
import sys
from pathlib import Path

import documents
import pytest

CALLBACK_YAML = documents.blocks(documents.DOCS / "callback.md", "yaml")[0]
CLI_PROGRAM = """
import sys
from {package} import LightningModule
from {package}.cli import LightningCLI
import lightning_puzzlemix as pm

made = LightningCLI(LightningModule, run=False, save_config_callback=None)
(callback,) = (each for each in made.trainer.callbacks if isinstance(each, pm.PuzzleMixCallback))
assert callback.prob == 0.5 and callback.config.std == (0.267, 0.256, 0.276)
"""


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_the_documented_yaml_builds_the_callback(package: str, tmp_path: Path) -> None:
    pytest.importorskip("jsonargparse")
    pytest.importorskip(package)
    (tmp_path / "config.yaml").write_text(CALLBACK_YAML)
    (tmp_path / "program.py").write_text(CLI_PROGRAM.format(package=package))
    command = [
        sys.executable,
        "program.py",
        "--config=config.yaml",
        "--trainer.logger=false",
        "--trainer.accelerator=cpu",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
