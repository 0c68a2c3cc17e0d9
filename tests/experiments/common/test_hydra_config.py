"""Every option of every config group composes and gives the object that it promises."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from experiments.common.config_checks import TRAIN, check_settings
from experiments.common.errors import UserError
from experiments.data import ImageDataModule, PhasedDataModule
from experiments.training.builders import build_classifier, build_loggers, build_optional
from experiments.training.callbacks import stop_clean_loss
from experiments.training.optim import cosine

Compose = Callable[..., DictConfig]
CONF = Path(__file__).resolve().parents[3] / "conf"
FILES = sorted(CONF.rglob("*.yaml"))


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def documented_commands(path: Path) -> list[list[str]]:
    """Words of the commands in a file's comments, as a shell splits them; what follows several blanks is an explanation."""
    found = re.findall(r"^# +python -m experiments\.train(.*)$", path.read_text(), flags=re.MULTILINE)
    return [shlex.split(re.split(r" {3,}", command.strip())[0]) for command in found]


def of_one_job(command: list[str]) -> list[str]:
    """The overrides of a sweep's first job; settings of Hydra itself are those of the sweep."""
    jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(command), None)[0]
    return [override for override in jobs[0] if not override.startswith("hydra.")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_names_a_command_that_composes(path: Path, compose_train: Compose) -> None:
    commands = documented_commands(path)
    assert commands
    for command in commands:
        overrides = [word for word in command if word != "--multirun"]
        if "data=imagefolder" in overrides and not any(word.startswith("data.root=") for word in overrides):
            pytest.fail(f"{path}: data=imagefolder needs data.root")
        cfg = compose_train(*of_one_job(overrides))
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        check_settings(cfg, TRAIN)


@pytest.mark.parametrize("name", options("data"))
def test_data_modules_know_their_numbers_without_files(name: str, compose_train: Compose, tmp_path: Path) -> None:
    cfg = compose_train(f"data={name}", f"+data.root={tmp_path}" if name == "imagefolder" else "seed=3")
    data = instantiate(cfg.data)
    assert isinstance(data, ImageDataModule | PhasedDataModule)
    assert data.seed == cfg.seed
    assert len(data.mean) == len(data.std) == data.in_channels
    batch = {"digits": 64, "imagenet": 256, "imagenet_phases": 448}.get(name, 100)
    size = {"tiny_imagenet": 64, "imagenet": 224, "imagenet_phases": 224}.get(name, 32)
    assert (data.batch_size, data.image_size) == (batch, size)


@pytest.mark.parametrize("name", options("model"))
def test_models_take_channels_and_classes_from_the_data(name: str, compose_train: Compose) -> None:
    named = ["model.name=resnet18"] if name in ("timm", "torchvision") else []
    cfg = compose_train(f"model={name}", *named, "optimizer.momentum=0.8")
    classifier = build_classifier(cfg, instantiate(cfg.data))
    assert classifier(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    optimizer, scheduler = classifier.make_optimizer, classifier.schedule
    assert optimizer.func is torch.optim.SGD
    assert optimizer.keywords == {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 1e-4}
    assert (scheduler.func, scheduler.keywords) == (cosine, {"warmup_epochs": 1})


@pytest.mark.parametrize("name", options("trainer"))
def test_trainers(name: str, compose_train: Compose, tmp_path: Path) -> None:
    cfg = compose_train(f"trainer={name}")
    assert cfg.trainer.max_epochs == cfg.epochs
    assert cfg.trainer.default_root_dir == str(tmp_path / "run")
    expected = {"gpu": "gpu", "cpu": "cpu"}.get(name, "auto")
    assert cfg.trainer.accelerator == expected
    assert cfg.trainer.devices == 1
    if name != "gpu" or torch.cuda.is_available():
        assert isinstance(instantiate(cfg.trainer, logger=False), pl.Trainer)


@pytest.mark.parametrize(
    ("name", "strategy", "nodes", "world"), [("single", SingleDeviceStrategy, 1, 1), ("ddp", DDPStrategy, 1, 2),
                                             ("ddp_nodes", DDPStrategy, 2, 4)],
)  # fmt: skip
def test_strategies(name: str, strategy: type, nodes: int, world: int, compose_train: Compose) -> None:
    overrides = [] if name == "single" else ["trainer.devices=2"]
    trainer = instantiate(compose_train(f"strategy={name}", "trainer=cpu", *overrides).trainer, logger=False)
    assert type(trainer.strategy) is strategy
    assert (trainer.num_nodes, trainer.world_size) == (nodes, world)


def test_fsdp_asks_for_gpus(compose_train: Compose) -> None:
    cfg = compose_train("strategy=fsdp", "trainer.devices=2")
    assert cfg.trainer.strategy == "fsdp"
    if not torch.cuda.is_available():
        with pytest.raises(InstantiationException, match="GPU"):
            instantiate(cfg.trainer)


def test_all_strategies_are_covered() -> None:
    assert options("strategy") == ["ddp", "ddp_nodes", "fsdp", "single"]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("csv", [CSVLogger]),
        ("tensorboard", [TensorBoardLogger, CSVLogger]),
        ("wandb", [WandbLogger, CSVLogger]),
        ("none", []),
    ],
)
def test_every_logger_writes_the_csv_too(
    name: str, kinds: list[type], compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    loggers = build_loggers(compose_train(f"logger={name}"))
    assert [type(logger) for logger in loggers] == kinds
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            assert Path(logger.log_dir) == tmp_path / "run" / "logs"


def test_all_logger_and_mix_options_are_covered() -> None:
    assert options("logger") == ["csv", "none", "tensorboard", "wandb"]
    assert options("mix") == ["cutmix", "manifold", "mixup", "none", "puzzlemix", "random"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("mixup", "MixUpCallback"), ("cutmix", "CutMixCallback"), ("manifold", "ManifoldMixCallback")],
)
def test_baselines_are_built_with_the_run_s_seed(name: str, kind: str, compose_train: Compose) -> None:
    mix = build_optional(compose_train(f"mix={name}", "seed=7", "mix.alpha=0.3"), "mix")
    assert (type(mix).__name__, mix.seed, mix.mixer.alpha) == (kind, 7, 0.3)


def test_the_authors_layers_are_there_in_every_network_of_the_recipes(compose_train: Compose) -> None:
    for overrides in (["model=small"], ["model=wrn28_2"], ["data=imagenet", "model=resnet50"]):
        cfg = compose_train("mix=manifold", *overrides)
        net = instantiate(cfg.model, num_classes=10, in_channels=3)
        names = {f"net.{name}" for name, _ in net.named_modules()} | {"input"}
        assert set(cfg.mix.layers) <= names


def test_clean_regularization_can_be_ended(compose_train: Compose) -> None:
    mix = build_optional(compose_train("mix.clean_weight=0.5"), "mix")
    switch = stop_clean_loss(mix, 2)
    weights = []
    for epoch in (0, 1, 2, 3, 1):
        switch.on_train_batch_start(SimpleNamespace(current_epoch=epoch), None, None, 0)  # type: ignore[arg-type]
        weights.append(mix.mixer.clean_weight)
    assert weights == [0.5, 0.5, 0.0, 0.0, 0.5]
    with pytest.raises(ValueError, match=r"clean_stop_epoch=2 needs mix=puzzlemix with mix\.clean_weight > 0"):
        stop_clean_loss(build_optional(compose_train(), "mix"), 2)


def test_puzzlemix_is_built_with_the_run_s_seed_and_any_setting(compose_train: Compose) -> None:
    import lightning_puzzlemix as plugin

    mix = build_optional(compose_train("mix.config.alpha=0.5", "mix.prob=0.25", "seed=7"), "mix")
    assert isinstance(mix, plugin.PuzzleMixCallback)
    with pytest.raises(InstantiationException, match="alpa"):
        build_optional(compose_train("mix.config.alpa=0.5"), "mix")


def test_random_mix_is_built_with_the_run_s_seed(compose_train: Compose) -> None:
    mix = build_optional(compose_train("mix=random", "mix.weights=[2,1]", "seed=7"), "mix")
    assert [type(each).__name__ for each in mix.callbacks] == ["PuzzleMixCallback", "CutMixCallback"]
    assert [each.seed for each in (mix, *mix.callbacks)] == [7, 7, 7]
    assert mix.weights == pytest.approx([2 / 3, 1 / 3])


def test_mix_none_is_none_and_takes_no_settings(compose_train: Compose) -> None:
    assert build_optional(compose_train("mix=none"), "mix") is None
    with pytest.raises(ValueError, match=r"mix=none takes no settings.*alpha"):
        build_optional(compose_train("mix=none", "mix.config.alpha=1"), "mix")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("digits", {}),
        ("cifar10", {"config": {"transport_size": 4}}),
        ("cifar100", {"config": {"transport_size": 4}}),
        ("tiny_imagenet", {"clean_weight": 0.01}),
        ("imagenet", {"config": {"neighborhood_size": 2}}),
    ],
)
def test_recipes_reach_the_mix(data: str, expected: dict[str, object], compose_train: Compose) -> None:
    """Beyond target and seed, the mix holds what the recipe changes and nothing else: defaults live in code."""
    mix = OmegaConf.to_container(compose_train(f"data={data}").mix, resolve=True)
    assert isinstance(mix, dict)
    config = {key: value for key, value in mix.pop("config").items() if key != "_target_"}
    found = {key: value for key, value in mix.items() if key not in ("_target_", "_convert_", "seed")}
    assert found | ({"config": config} if config else {}) == expected
    assert OmegaConf.to_container(compose_train(f"data={data}", "mix=none").mix) == {"_target_": None}


def test_recipes_of_the_schedules(compose_train: Compose) -> None:
    cfg = compose_train("data=tiny_imagenet", "model=preactresnet18")
    assert (cfg.epochs, cfg.model.stem_stride) == (1200, 2)
    assert (cfg.optimizer.lr, cfg.scheduler.milestones, cfg.scheduler.gamma) == (0.2, [600, 900], 0.1)
    assert cfg.scheduler._target_ == "torch.optim.lr_scheduler.MultiStepLR"
    assert compose_train("data=tiny_imagenet", "optimizer=adamw").optimizer.lr == 0.001
    # One that is chosen takes the place of the recipe's, whose milestones it need not know.
    cfg = compose_train("experiment=cifar100_wrn28_10_puzzlemix", "data.root=/x", "scheduler=cosine", "optimizer=adam")
    check_settings(cfg, TRAIN)
    assert (cfg.scheduler._target_.split(".")[-1], cfg.optimizer._target_) == ("cosine", "torch.optim.Adam")
    assert "stem_stride" not in compose_train("data=cifar100", "model=preactresnet18").model
    assert compose_train("data=cifar100", "epochs=3").epochs == 3


def test_misspelt_settings_are_refused(compose_train: Compose) -> None:
    with pytest.raises(ConfigCompositionException, match="epoch"):
        compose_train("epoch=3")
    with pytest.raises(UserError, match=r"momentun.* did you mean momentum"):
        check_settings(compose_train("optimizer.momentun=0.8"), TRAIN)


def test_data_folder_comes_from_the_environment(compose_train: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUZZLEMIX_DATA", "/somewhere")
    assert compose_train("data=cifar10").data.root == "/somewhere"
    monkeypatch.delenv("PUZZLEMIX_DATA")
    assert compose_train("data=imagenet").data.root == "data/imagenet"
