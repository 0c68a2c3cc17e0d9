"""Every data set as on a machine that has never seen it: an empty folder, the commands as they are typed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from archive_server import (
    ArchiveServer,
    publish_cifar,
    publish_tiny_imagenet,
    replaced_in_commands,
    serve,
)
from command_line import REPOSITORY, launch
from layouts import write_folders
from omegaconf import DictConfig, OmegaConf

from experiments.data import CIFAR10DataModule, CIFAR100DataModule, MissingDataError
from experiments.resize_images import main as resize_images
from experiments.show_mixing import main as show_mixing
from experiments.train import run

Compose = Callable[..., DictConfig]
TINY = (
    "epochs=1",
    "model=small",
    "model.width=4",
    "scheduler=constant",
    "trainer=cpu",
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "data.batch_size=4",
    "data.num_workers=0",
)
OPTIONS = sorted(path.stem for path in (REPOSITORY / "conf" / "data").glob("*.yaml"))
DOWNLOADED = {"cifar10": CIFAR10DataModule, "cifar100": CIFAR100DataModule, "tiny_imagenet": None}
JOBS = ("launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1")
# Shipped with a package.
INSTALLED = {"digits"}
# From elsewhere, by hand; what the message must name.
BY_HAND = {
    "imagefolder": "data/train/<class>/*.jpg and",
    "imagenet": "data/imagenet/train/<wnid>/*.JPEG and",
    "imagenet_phases": "python -m experiments.resize_images makes the copies",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as running:
        yield running


def publish(option: str, server: ArchiveServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    kind = DOWNLOADED[option]
    if kind is None:
        return publish_tiny_imagenet(server, folder, monkeypatch)
    return publish_cifar(server, kind, folder, monkeypatch)


def test_every_option_is_tried_here() -> None:
    assert sorted({*DOWNLOADED, *INSTALLED, *BY_HAND}) == OPTIONS


@pytest.mark.parametrize("option", sorted({*DOWNLOADED, *INSTALLED}))
def test_a_data_set_trains_from_an_empty_folder(
    option: str, compose_train: Compose, server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [] if option in INSTALLED else [publish(option, server, tmp_path / "official", monkeypatch)]
    # Interrupted once on the way.
    server.faults = [300]
    monkeypatch.setattr("experiments.data.download.RETRY_SECONDS", 0.01)
    summary = run(compose_train(*TINY, f"data={option}", f"paths.data_dir={tmp_path / 'data'}"))
    assert summary.test_images > 0
    assert [name for name, _ in server.requests] == wanted * 2
    assert not list(tmp_path.glob("data/*.part"))


@pytest.mark.parametrize("option", sorted(BY_HAND))
def test_what_is_not_downloaded_says_what_to_put_where(option: str, compose_train: Compose, tmp_path: Path) -> None:
    phased = option == "imagenet_phases"
    more = ["data.root=" + str(tmp_path / "data")] if option == "imagefolder" else []
    sizes = [setting for setting in TINY if not (phased and setting.startswith("data.batch_size"))]
    with pytest.raises(MissingDataError) as caught:
        run(compose_train(*sizes, f"data={option}", f"paths.data_dir={tmp_path / 'data'}", *more))
    (line,) = [line for line in str(caught.value).splitlines() if line.startswith("How to get it:")]
    assert BY_HAND[option] in line
    assert str(tmp_path / "data") in line


def test_a_network_that_fails_leaves_a_line_and_no_traceback(
    server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("cifar100", server, tmp_path / "official", monkeypatch)
    environment = replaced_in_commands(tmp_path / "site", CIFAR100DataModule)
    server.faults = ["404"]
    paths = (f"paths.data_dir={tmp_path / 'data'}", f"paths.runs={tmp_path / 'runs'}")
    result = launch("train", *TINY, "data=cifar100", *paths, **environment)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    last = result.stdout.splitlines()[-1]
    for part in ("HTTP Error 404: Not Found", server.url("cifar-100-python.tar.gz"), str(tmp_path / "data")):
        assert part in last


def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("option", sorted(DOWNLOADED))
def test_two_commands_at_once_on_one_empty_folder(
    option: str, server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = publish(option, server, tmp_path / "official", monkeypatch)
    environment = replaced_in_commands(tmp_path / "site", CIFAR10DataModule, CIFAR100DataModule)
    server.pause = 8.0
    data = f"paths.data_dir={tmp_path / 'data'}"
    runs = [
        start(
            "experiments.train",
            *TINY,
            f"data={option}",
            data,
            f"hydra.run.dir={tmp_path / 'runs' / mix}",
            f"mix={mix}",
            **environment,
        )
        for mix in ("none", "puzzlemix")
    ]
    output = [process.communicate(timeout=240)[0] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], output
    assert server.requests == [(name, None)]
    # Elsewhere, where there is only the run: the data set is fetched for the evaluation, too, where that is asked for.
    result = launch(
        "evaluate",
        f"checkpoint={tmp_path / 'runs' / 'none'}",
        f"data.root={tmp_path / 'elsewhere'}",
        "data.download=true",
        "attacks=[]",
        "device=cpu",
        **environment,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert server.requests == [(name, None)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "joblib"])
def test_processes_of_one_command_download_once(
    kind: str, server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = publish("cifar100", server, tmp_path / "official", monkeypatch)
    environment = replaced_in_commands(tmp_path / "site", CIFAR100DataModule)
    server.pause = 3.0
    # Hydra wants its own options before all settings.
    how = {
        "ddp": ("strategy=ddp", "trainer.devices=2", f"hydra.run.dir={tmp_path / 'run'}"),
        "joblib": ("--multirun", *JOBS, f"hydra.sweep.dir={tmp_path / 'sweep'}"),
    }[kind]
    settings = (*TINY, "data=cifar100", "mix=none", f"paths.data_dir={tmp_path / 'data'}")
    result = launch("train", *how, *settings, **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert server.requests == [(name, None)]
    summaries = list(tmp_path.glob("run/summary.json")) + list(tmp_path.glob("sweep/**/summary.json"))
    assert len(summaries) == (1 if kind == "ddp" else 2)


@pytest.mark.slow
def test_torchrun_starts_every_process_on_the_empty_folder(
    server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = publish("cifar100", server, tmp_path / "official", monkeypatch)
    environment = replaced_in_commands(tmp_path / "site", CIFAR100DataModule)
    server.pause = 3.0
    process = start(
        "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "experiments.train", *TINY, "data=cifar100",
        "strategy=ddp", "trainer.devices=2", f"paths.data_dir={tmp_path / 'data'}", f"hydra.run.dir={tmp_path / 'run'}",
        **environment,
    )  # fmt: skip
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert server.requests == [(name, None)]
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.slow
def test_a_sweep_without_the_data_reports_every_job(
    server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("cifar100", server, tmp_path / "official", monkeypatch)
    environment = replaced_in_commands(tmp_path / "site", CIFAR100DataModule)
    server.files.clear()
    sweep = ("--multirun", *JOBS, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    result = launch("train", *sweep, *TINY, "data=cifar100", f"paths.data_dir={tmp_path / 'data'}", **environment)
    assert result.returncode != 0
    assert "HTTP Error 404: Not Found" in result.stdout + result.stderr
    assert "un-serialize" not in result.stdout + result.stderr


def forget_data(run_dir: Path, root: Path) -> None:
    """The run as it comes to another machine: its data is elsewhere, and what it said of its classes is not there."""
    cfg = OmegaConf.load(run_dir / "config.yaml")
    cfg.data.root = str(root)
    OmegaConf.save(cfg, run_dir / "config.yaml")
    (run_dir / "test_results.json").unlink()


@pytest.mark.parametrize("option", sorted(DOWNLOADED))
def test_pictures_are_shown_to_a_network_without_its_data(
    option: str,
    compose_train: Compose,
    server: ArchiveServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = publish(option, server, tmp_path / "official", monkeypatch)
    run(compose_train(*TINY, f"data={option}", f"paths.data_dir={tmp_path / 'data'}"))
    forget_data(tmp_path / "run", tmp_path / "elsewhere")
    pictures = sorted(str(path) for path in write_folders(tmp_path / "mine", ("train",)).rglob("*.jpg"))[:2]
    output = tmp_path / "mix.png"
    command = [*pictures, "--checkpoint", str(tmp_path / "run"), "--output", str(output)]
    if option == "tiny_imagenet":
        # How many classes it has, files tell; and into a folder that a run folder names nothing is fetched.
        assert show_mixing(command) != 0
        assert "Tiny-ImageNet was not found" in " ".join("".join(capsys.readouterr()).split())
    else:
        assert show_mixing(command) == 0
        assert output.is_file()
    assert server.requests == [(name, None)]


def test_resizing_what_is_not_there_is_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        resize_images([str(tmp_path / "imagenet"), str(tmp_path / "copies"), "--size", "16"])
    assert caught.value.code == 2
    assert f"SOURCE must be a folder of images, got {tmp_path / 'imagenet'}" in capsys.readouterr().err


def test_copies_for_the_phases_train_where_the_message_leads(compose_train: Compose, tmp_path: Path) -> None:
    images = write_folders(tmp_path / "imagenet", ("train", "val"), size=(60, 70))
    assert resize_images([str(images), str(tmp_path / "copies"), "--size", "40"]) == 0
    summary = run(
        compose_train(
            *(setting for setting in TINY if not setting.startswith("data.")),
            "data=imagenet_phases",
            f"data.root={tmp_path / 'copies'}",
            "data.num_workers=0",
            "~data.phases.first",
            "~data.phases.second",
            "data.phases.third.root=${data.root}/40",
            "data.phases.third.image_size=32",
            "data.phases.third.batch_size=2",
            "data.eval_size=32",
            "data.eval_resize=36",
            "trainer.reload_dataloaders_every_n_epochs=1",
        )
    )
    assert summary.test_images > 0
    assert torch.isfinite(torch.tensor(summary.test["nll"]))


@pytest.mark.slow
@pytest.mark.parametrize("option", sorted(DOWNLOADED))
def test_a_killed_command_is_continued_by_the_next(
    option: str, server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = publish(option, server, tmp_path / "official", monkeypatch)
    environment = replaced_in_commands(tmp_path / "site", CIFAR10DataModule, CIFAR100DataModule)
    part = tmp_path / "data" / f"{name}.part"
    settings = (*TINY, f"data={option}", f"paths.data_dir={tmp_path / 'data'}", f"paths.runs={tmp_path / 'runs'}")
    for signum in (signal.SIGINT, signal.SIGKILL):
        server.faults = ["trickle"]
        seen = part.stat().st_size if part.is_file() else 0
        process = start("experiments.train", *settings, **environment)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (not part.is_file() or part.stat().st_size <= seen):
            time.sleep(0.05)
        process.send_signal(signum)
        output = process.communicate(timeout=60)[0]
        assert process.returncode != 0
        assert signum != signal.SIGINT or "Traceback" not in output
    kept = part.stat().st_size
    assert kept > 0
    result = launch("train", *settings, **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert server.requests[-1] == (name, f"bytes={kept}-")
