"""The callback is a Callback of both Lightning packages, in whichever order a program imports them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OURS = "import lightning_puzzlemix as pm\nearly = pm.PuzzleMixCallback()\n"
# Each comes across the module with the class in its own way.
THEIRS = "import lightning.pytorch as other\n"
PARTS = "from lightning.pytorch.callbacks import Callback, ModelCheckpoint\nimport lightning.pytorch as other\n"
CHECKS = """
import inspect, pickle, sys
import pytorch_lightning as pl
import lightning_puzzlemix as pm

class Custom(pm.CutMixCallback):
    pass

made = [pm.PuzzleMixCallback(), pm.MixUpCallback(), Custom(), pickle.loads(pickle.dumps(pm.PuzzleMixCallback()))]
made += [early] if "early" in globals() else []
for package in (pl, other):
    assert all(isinstance(each, package.Callback) for each in made), package
    assert issubclass(pm.MixCallback, package.Callback) and issubclass(Custom, package.Callback), package
    trainer = package.Trainer(callbacks=made[:1], accelerator="cpu", logger=False, enable_checkpointing=False)
    assert made[0] in trainer.callbacks
# The hooks of the class are those that they were, and other people's look at the module finds it as it is.
assert pm.PuzzleMixCallback.on_train_batch_start is pm.MixCallback.on_train_batch_start
assert inspect.getsource(other.Callback).startswith("class Callback")
"""
COMMAND_LINE = """
sys.argv = ["program", "--config", sys.argv[1], "--trainer.logger=false", "--trainer.accelerator=cpu"]
from {package}.cli import LightningCLI
from {package} import LightningModule
made = LightningCLI(LightningModule, run=False, save_config_callback=None)
(callback,) = (each for each in made.trainer.callbacks if isinstance(each, pm.PuzzleMixCallback))
assert callback.prob == 0.5
"""
CALLBACK_YAML = """
trainer:
  callbacks:
    - class_path: lightning_puzzlemix.PuzzleMixCallback
      init_args:
        prob: 0.5
"""
HYDRA = """
from hydra.utils import instantiate
built = instantiate({"_target_": "lightning_puzzlemix.PuzzleMixCallback", "prob": 0.5})
assert isinstance(built, pl.Callback) and isinstance(built, other.Callback)
"""


def run(code: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_callback_belongs_to_both_packages_imported_after_lightning() -> None:
    pytest.importorskip("lightning.pytorch")
    run(THEIRS + OURS + CHECKS)


@pytest.mark.parametrize(("package", "imports"), [("pytorch_lightning", PARTS), ("lightning.pytorch", THEIRS)])
def test_the_callback_belongs_to_both_packages_imported_before_lightning(
    package: str, imports: str, tmp_path: Path
) -> None:
    """Also for the command line of either, and for Hydra."""
    pytest.importorskip("lightning.pytorch")
    pytest.importorskip("jsonargparse")
    pytest.importorskip("hydra")
    (tmp_path / "config.yaml").write_text(CALLBACK_YAML)
    run(OURS + imports + CHECKS + HYDRA + COMMAND_LINE.format(package=package), str(tmp_path / "config.yaml"))


def test_a_loader_of_several_modules(tmp_path: Path) -> None:
    """Modules in a zip file share one loader; only the one with the class is adopted."""
    code = f"""
import sys, zipfile
import lightning_puzzlemix as pm
path = {str(tmp_path / "packages.zip")!r}
with zipfile.ZipFile(path, "w") as archive:
    for folder in ("lightning", "lightning/pytorch", "lightning/pytorch/callbacks"):
        archive.writestr(folder + "/__init__.py", "")
    archive.writestr("lightning/pytorch/callbacks/callback.py", "class Callback: pass")
    archive.writestr("lightning/pytorch/callbacks/another.py", "value = 1")
sys.path.insert(0, path)
import lightning.pytorch.callbacks.callback as found
import lightning.pytorch.callbacks.another
assert path in found.__file__ and issubclass(pm.MixUpCallback, found.Callback)
"""
    run(code)
