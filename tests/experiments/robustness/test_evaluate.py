"""Evaluations from the command line: scores, files, errors, and which checkpoint is found where."""

import itertools
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from command_line import launch, without_other_extras
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from score_oracles import expected_calibration_error
from sklearn.metrics import log_loss, top_k_accuracy_score
from torch import nn
from torch.nn import functional as F

from experiments.checkpoints import choose_output_dir, complete_config, find_checkpoint
from experiments.common.errors import UserError
from experiments.data import DigitsDataModule
from experiments.evaluate import claim, register, run
from experiments.models import PreActResNet
from experiments.robustness import build_attacks
from experiments.robustness.evaluator import choose_device
from experiments.training.module import Classifier

Compose = Callable[..., DictConfig]
REPOSITORY = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
WIDTH, LIMIT = 4, 64


@pytest.fixture
def compose_evaluate() -> Iterator[Compose]:
    """Composes conf/evaluate.yaml with overrides, as the command line would."""
    register()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        yield lambda *overrides: compose("evaluate", list(overrides))
    GlobalHydra.instance().clear()


def learn(net: nn.Module, data: DigitsDataModule) -> None:
    """A few dozen steps, enough to be right most of the time."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    batches = list(data.train_dataloader())
    for images, targets in itertools.islice(itertools.cycle(batches), 80):
        optimizer.zero_grad()
        F.cross_entropy(net(images), targets).backward()
        optimizer.step()
    # The running statistics lag behind weights that change so fast.
    with torch.no_grad():
        for images, _ in batches:
            net(images)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training leaves it: config.yaml, best.ckpt, and a last.ckpt with other weights."""
    folder = tmp_path_factory.mktemp("runs") / "digits_none" / "2026-01-31"
    data = DigitsDataModule(seed=0)
    data.setup()
    # Once for all tests, so before the seed that each test starts with.
    torch.manual_seed(0)
    classifier = Classifier(PreActResNet(10, in_channels=1, width=WIDTH), num_classes=10)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_model_summary=False)
    trainer.strategy.connect(classifier)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    learn(classifier.net, data)
    trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
    config = {
        "data": {"_target_": "experiments.data.DigitsDataModule", "seed": 0},
        "model": {"_target_": "experiments.models.PreActResNet", "width": WIDTH},
        "epochs": 1,
    }
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    return folder


@pytest.fixture(scope="module")
def expected(run_dir: Path) -> dict[str, Any]:
    """The numbers for every so manieth test image of best.ckpt, computed by hand with numpy and scikit-learn."""
    net = PreActResNet(10, in_channels=1, width=WIDTH)
    state = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    net.load_state_dict({key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")})
    net.eval()
    data = DigitsDataModule(seed=0)
    data.setup()
    test = data.split("test")
    chosen = [test[int(position)] for position in np.floor(np.arange(LIMIT) * len(test) / LIMIT)]
    images, targets = torch.stack([image for image, _ in chosen]), torch.tensor([target for _, target in chosen])
    images.requires_grad_(True)
    logits = net(images)
    probabilities = logits.detach().double().softmax(dim=1).numpy()
    F.cross_entropy(logits, targets).backward()
    gradient, mean, std = images.grad, data.mean[0], data.std[0]
    assert gradient is not None
    pixels = (images.detach() * std + mean + 8 / 255 * gradient.sign()).clamp(0, 1)
    labels = list(range(10))
    return {
        "accuracy": float((probabilities.argmax(axis=1) == targets.numpy()).mean()),
        "top5": top_k_accuracy_score(targets, probabilities, k=5, labels=labels),
        "nll": log_loss(targets, probabilities, labels=labels),
        "calibration_error": expected_calibration_error(probabilities, targets.numpy()),
        "fgsm_8": float((net((pixels - mean) / std).argmax(dim=1) == targets).double().mean()),
    }


def test_a_run_is_evaluated_from_the_command_line(run_dir: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    blocked = without_other_extras(tmp_path / "blocked")
    done = launch("evaluate", f"checkpoint={run_dir}/checkpoints/best.ckpt", f"limit={LIMIT}", "device=cpu", **blocked)
    assert done.returncode == 0, done.stderr
    output = run_dir / "evaluation"
    saved = json.loads((output / "evaluation.json").read_text())
    for name in ("accuracy", "top5", "nll", "calibration_error"):
        assert saved["clean"][name] == pytest.approx(expected[name], abs=1e-5), name
    assert saved["attacks"]["fgsm_8"]["accuracy"] == pytest.approx(expected["fgsm_8"])
    assert saved["attacks"]["fgsm_8"]["eps"] == pytest.approx(8 / 255)
    assert list(saved["attacks"]) == ["fgsm_4", "fgsm_8", "pgd_20"]
    shares = [saved["clean"]["accuracy"], *(each["accuracy"] for each in saved["attacks"].values())]
    assert shares[0] > 0.5
    assert shares[0] > shares[1] >= shares[2]
    assert shares[3] <= shares[1]
    assert (saved["complete"], saved["images"], saved["test_images"]) == (True, LIMIT, 359)
    assert (saved["checkpoint"], saved["checkpoint_source"]) == (str(run_dir / "checkpoints" / "best.ckpt"), "study")
    assert saved["settings"]["limit"] == LIMIT
    assert saved["corruptions"] is None
    assert saved["seconds"] > 0
    assert f"{expected['accuracy']:.2%}" in done.stdout
    files = [output / name for name in ("evaluation.json", "evaluation.png")]
    assert [Path(line).resolve() for line in done.stdout.split()[-2:]] == files
    assert "pgd_20" in (output / "evaluate.log").read_text()
    with Image.open(output / "evaluation.png") as plot:
        assert min(plot.size) > 200
        assert plot.info["dpi"] == pytest.approx((150, 150), abs=0.1)


def test_two_checkpoints_of_a_run_in_one_sweep(run_dir: Path, tmp_path: Path) -> None:
    checkpoints = ",".join(str(run_dir / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    settings = ["attacks=[]", "limit=20", "device=cpu", f"paths.runs={tmp_path}"]
    done = launch("evaluate", "--multirun", f"checkpoint={checkpoints}", *settings)
    assert done.returncode == 0, done.stderr
    best, last = (
        json.loads((run_dir / name / "evaluation.json").read_text()) for name in ("evaluation", "evaluation_last")
    )
    assert best["checkpoint"].endswith("best.ckpt")
    assert last["checkpoint"].endswith("last.ckpt")
    assert best["clean"]["nll"] != last["clean"]["nll"]
    assert best["attacks"] == last["attacks"] == {}


def test_jobs_of_a_sweep_do_not_overwrite_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "evaluation.json"

    def start(sweep: str | None, number: int = 0) -> None:
        config = SimpleNamespace(sweep=SimpleNamespace(dir=sweep), job=SimpleNamespace(num=number))
        monkeypatch.setattr("experiments.evaluate.in_sweep", lambda: sweep is not None)
        monkeypatch.setattr("experiments.evaluate.HydraConfig.get", lambda: config)
        path.write_text(json.dumps({"sweep_job": claim(path)}))

    start("sweep_1", 0)
    with pytest.raises(UserError, match=r"Two jobs of this sweep write to .*evaluation.json; .*output_dir="):
        start("sweep_1", 1)
    # Evaluated again: by the same job, another sweep, or alone.
    for job in (("sweep_1", 0), ("sweep_2", 1), (None,)):
        start(*job)
    assert json.loads(path.read_text())["sweep_job"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checkpoint=nowhere.ckpt"], "got nowhere.ckpt: there is no"),
        (["checkpoint=tests"], "must be a checkpoint or a run folder"),
        ([], "give checkpoint=PATH"),
        (["checkpoint={run}", "model.width=8"], r"best\.ckpt(.|\n)*stem\.weight"),
        (["checkpoint={run}", "model.widht=8"], "widht"),
        (["checkpoint={run}", "data=cifar100", "data.download=false", "data.root=/nowhere"], "CIFAR-100 was not found"),
        (["checkpoint={run}", "attacks=[fgsm_9]"], "got 'fgsm_9'"),
        (["checkpoint={run}", "corruptions.root=/nowhere"], "corruptions.root /nowhere holds no corruption"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, run_dir: Path, tmp_path: Path, compose_evaluate: Compose
) -> None:
    cfg = compose_evaluate(*(word.format(run=run_dir) for word in arguments), f"output_dir={tmp_path}")
    with pytest.raises((UserError, InstantiationException), match=message):
        run(cfg)
    assert not any(tmp_path.iterdir())


def write_authors_checkpoint(path: Path, net: nn.Module) -> None:
    """Write the weights under the names of the authors' code, inside its DataParallel."""
    swaps = {r"^stem": "conv1", r"^head": "linear", "norm": "bn", "shortcut": "shortcut.0"}
    weights = {}
    for name, value in net.state_dict().items():
        name = re.sub(r"^stages\.(\d)", lambda found: f"layer{int(found[1]) + 1}", name)
        for ours, theirs in swaps.items():
            name = re.sub(ours, theirs, name)
        weights[f"module.{name}"] = value
    torch.save({"epoch": 3, "arch": "preactresnet18", "state_dict": weights}, path)


def test_a_checkpoint_of_the_authors_needs_data_and_model(tmp_path: Path, compose_evaluate: Compose) -> None:
    net = PreActResNet(10, in_channels=1, width=WIDTH, final_norm=False).eval()
    path = tmp_path / "checkpoint.pth.tar"
    write_authors_checkpoint(path, net)
    given = [f"checkpoint={path}", "attacks=[]", "batch_size=7", "device=cpu"]
    with pytest.raises(UserError, match=r"data must be given: data=NAME"):
        run(compose_evaluate(*given))
    report = run(compose_evaluate(*given, "data=digits", "model=preactresnet18", f"model.width={WIDTH}"))
    saved = json.loads((tmp_path / "evaluation_checkpoint" / "evaluation.json").read_text())
    assert (saved["model"]["width"], saved["settings"]["batch_size"]) == (WIDTH, 7)
    assert [saved[key] for key in ("checkpoint_source", "architecture")] == ["authors", "preactresnet18"]
    data = DigitsDataModule(seed=0)
    data.setup()
    with torch.no_grad():
        hits = [net(images).argmax(dim=1) == targets for images, targets in data.test_dataloader()]
    assert saved["clean"]["accuracy"] == report.clean.accuracy == pytest.approx(float(torch.cat(hits).double().mean()))


def test_mistakes_end_in_a_message(tmp_path: Path) -> None:
    done = launch("evaluate", "checkpoint=nowhere.ckpt", f"paths.runs={tmp_path}")
    assert done.returncode == 1
    assert "checkpoint must be a checkpoint or a run folder, got nowhere.ckpt" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_documented_commands_compose(compose_evaluate: Compose) -> None:
    text = (REPOSITORY / "conf" / "evaluate.yaml").read_text()
    commands = re.findall(r"^# +python -m experiments\.evaluate(.*)$", text, flags=re.MULTILINE)
    assert len(commands) > 4
    for command in commands:
        words = [word for word in shlex.split(command) if word != "--multirun"]
        # A list of runs is for the sweeper.
        cfg = compose_evaluate(*(word for word in words if "RUN_1," not in word))
        build_attacks(OmegaConf.to_container(cfg.attacks))


def test_the_help_shows_how_it_is_called() -> None:
    done = launch("evaluate", "--help")
    assert done.returncode == 0
    assert "python -m experiments.evaluate checkpoint=PATH" in done.stdout
    assert "corruptions.root" in done.stdout
    assert "optimizer" not in done.stdout


def test_checkpoints_are_found_in_run_folders(run_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    best, last = (copy / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    assert find_checkpoint(str(copy)).path == best
    assert find_checkpoint(str(last)).run_dir == copy
    assert choose_output_dir(str(best), "x") == choose_output_dir(str(copy), "x") == str(copy / "evaluation")
    assert choose_output_dir(str(last), "x") == str(copy / "evaluation_last")
    best.unlink()
    assert find_checkpoint(str(copy)).path == last
    assert choose_output_dir(str(copy), "x") == str(copy / "evaluation")
    loose = Path(shutil.copy(last, tmp_path / "checkpoint.pth.tar"))
    assert find_checkpoint(str(loose)).run_dir is None
    assert choose_output_dir(str(loose), "x") == str(tmp_path / "evaluation_checkpoint")
    assert choose_output_dir("nowhere", "x") == choose_output_dir(None, "x") == "x"


def test_the_command_line_changes_or_replaces_the_settings_of_the_run(run_dir: Path, tmp_path: Path) -> None:
    location = find_checkpoint(str(run_dir))
    other = {"_target_": "other"}
    cfg = complete_config(OmegaConf.create({"data": {"seed": 3}, "model": other}), location)
    assert cfg.data == {"_target_": "experiments.data.DigitsDataModule", "seed": 3}
    assert cfg.model == other
    loose = find_checkpoint(shutil.copy(location.path, tmp_path / "model.ckpt"))
    with pytest.raises(UserError, match="model must be given: model=NAME"):
        complete_config(OmegaConf.create({"data": other, "model": {}}), loose)


def test_unusable_devices_are_named() -> None:
    assert choose_device("cpu") == CPU
    with pytest.raises(UserError, match="device=abacus cannot be used"):
        choose_device("abacus")
