"""Every experiment against the flags of the authors' commands, written down here as a table of facts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import lightning_puzzlemix as pm
from experiments.training.builders import build_optional

Compose = Callable[..., DictConfig]
CONF = Path(__file__).resolve().parents[3] / "conf"
NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@dataclass(frozen=True)
class Facts:
    """The flags of one command; those that a row does not name have the values of the CIFAR commands."""

    data: str
    model: str
    epochs: int
    lr: float
    milestones: tuple[int, ...]
    batch: int = 100
    loss: str = "bce_softmax"
    padding: int | None = 2
    stride: int = 1
    mix: dict[str, Any] = field(default_factory=dict)
    augment: tuple[str, ...] = ()
    jsd: tuple[float, str | None] = (0, None)  # jsd_lam, and the image that is classified.


# --mixup_alpha of the baselines; Puzzle Mix's flags, with clean_lam and adv_eps in the units of the authors' code.
MIXUP, CUTMIX = ({"kind": kind, "alpha": 1.0} for kind in ("MixUp", "CutMix"))
MANIFOLD = {"kind": "ManifoldMix", "alpha": 2.0}
PUZZLE = {
    "kind": "PuzzleMix", "alpha": 1.0, "n_labels": 3, "beta": 1.2, "gamma": 0.5, "eta": 0.2, "neigh_size": 4,
    "transport": True, "t_eps": 0.8, "t_size": 4, "clean_lam": 0.0, "adv_p": 0.0, "mixup_prob": 1.0,
}  # fmt: skip
TINY_PUZZLE = PUZZLE | {"t_size": -1, "clean_lam": 1.0}
BASELINES = {"vanilla": {}, "mixup": MIXUP, "cutmix": CUTMIX, "manifold": MANIFOLD}


def rows(prefix: str, facts: dict[str, Any], mixes: dict[str, dict[str, Any]]) -> dict[str, Facts]:
    return {f"{prefix}_{name}": Facts(**facts, mix=mix) for name, mix in mixes.items()}


def low(mix: dict[str, Any]) -> dict[str, Any]:
    return mix | {"alpha": 0.2} if mix else mix


CIFAR_18 = {"data": "CIFAR100DataModule", "model": "PreActResNet", "epochs": 1200, "lr": 0.1, "milestones": (400, 800)}
CIFAR_WRN = {"data": "CIFAR100DataModule", "model": "WideResNet", "epochs": 400, "lr": 0.1, "milestones": (200, 300)}
TINY = {
    "data": "TinyImageNetDataModule", "model": "PreActResNet", "epochs": 1200, "lr": 0.2, "milestones": (600, 900),
    "padding": 4, "stride": 2,
}  # fmt: skip
IMAGENET = {
    "data": "ImageNetDataModule", "model": "resnet50", "epochs": 300, "lr": 0.1, "milestones": (75, 150, 225), "batch": 256,
    "loss": "ce", "padding": None,
}  # fmt: skip
PYRAMID = {
    "data": "CIFAR100DataModule", "model": "PyramidNet", "epochs": 300, "lr": 0.25, "milestones": (150, 225), "batch": 64,
    "loss": "ce", "padding": 4,
}  # fmt: skip
TABLE: dict[str, Facts] = {
    **rows("cifar100_preactresnet18", CIFAR_18, BASELINES | {"puzzlemix": PUZZLE}),
    **rows("cifar100_preactresnet18", CIFAR_18, {"puzzlemix_adversarial": PUZZLE | {"adv_p": 0.1, "adv_eps": 10}}),
    **rows(
        "cifar100_preactresnet18",
        CIFAR_18 | {"epochs": 600, "lr": 0.2, "milestones": (350, 500)},
        {"puzzlemix_short": PUZZLE},
    ),
    **rows("cifar100_wrn28_10", CIFAR_WRN, BASELINES | {"puzzlemix": PUZZLE}),
    **rows("cifar100_wrn28_10", CIFAR_WRN, {"puzzlemix_adversarial": PUZZLE | {"adv_p": 0.1, "adv_eps": 10}}),
    **rows(
        "cifar100_wrn28_10",
        CIFAR_WRN | {"epochs": 200, "lr": 0.2, "milestones": (120, 170)},
        {"puzzlemix_short": PUZZLE},
    ),
    **rows("cifar100_wrn28_10", CIFAR_WRN | {"augment": ("AugMix",)}, {"puzzlemix_augmix": PUZZLE}),
    **rows(
        "cifar100_wrn28_10",
        CIFAR_WRN | {"augment": ("AugMix",), "jsd": (12, "augmented")},
        {"puzzlemix_augmix_jsd": PUZZLE},
    ),
    **rows(
        "cifar100_wrn28_10", CIFAR_WRN | {"augment": ("AugMix",), "jsd": (12, "clean"), "loss": "ce"}, {"augmix": {}}
    ),
    **rows(
        "tiny_imagenet_preactresnet18",
        TINY,
        {name: low(mix) for name, mix in BASELINES.items()} | {"puzzlemix": TINY_PUZZLE},
    ),
    **rows(
        "tiny_imagenet_preactresnet18", TINY, {"puzzlemix_adversarial": TINY_PUZZLE | {"adv_p": 0.15, "adv_eps": 10}}
    ),
    **rows(
        "tiny_imagenet_preactresnet18",
        TINY | {"epochs": 600, "milestones": (300, 450)},
        {"puzzlemix_short": TINY_PUZZLE, "puzzlemix_adversarial_short": TINY_PUZZLE | {"adv_p": 0.15, "adv_eps": 10}},
    ),
    **rows("imagenet_resnet50", IMAGENET, BASELINES | {"puzzlemix": PUZZLE | {"neigh_size": 2, "t_size": -1}}),
    **rows("cifar100_pyramidnet200", PYRAMID, {"puzzlemix": PUZZLE | {"t_size": -1}}),
    **rows("cifar100_pyramidnet200", PYRAMID, {"vanilla": {}, "cutmix": CUTMIX}),
    **rows("cifar100_pyramidnet200", PYRAMID, {"cutmix_half": CUTMIX | {"mixup_prob": 0.5}}),
    **rows("cifar100_pyramidnet200", PYRAMID, {"puzzlemix_half": PUZZLE | {"t_size": -1, "mixup_prob": 0.5}}),
}
PHASED_PUZZLE = PUZZLE | {"beta": 1.5, "clean_lam": 1.0, "neigh_size": 2, "t_size": -1}
PHASED = {f"imagenet_resnet50_{name}_3phase": mix for name, mix in (BASELINES | {"puzzlemix": PHASED_PUZZLE}).items()}


def as_flags(mix: Any, cfg: DictConfig, num_classes: int) -> dict[str, Any]:
    """What a mixing callback does, in the terms of the authors' flags."""
    if mix is None:
        return {}
    mixer = mix.mixer
    if not isinstance(mix, pm.PuzzleMixCallback):
        return {"kind": type(mixer).__name__, "alpha": mixer.alpha} | (
            {"mixup_prob": mix.prob} if mix.prob != 1 else {}
        )
    config = mixer.config
    # Under their BCE loss the clean loss is 2 clean_lam / num_classes times the cross-entropy.
    unit = 2 / num_classes if cfg.loss == "bce_softmax" else 1.0
    flags = {
        "kind": type(mixer).__name__, "alpha": config.alpha, "n_labels": config.num_labels, "beta": config.beta,
        "gamma": config.gamma, "eta": config.eta, "neigh_size": config.neighborhood_size, "transport": config.transport,
        "t_eps": config.transport_cost, "t_size": -1 if config.transport_size is None else config.transport_size,
        "clean_lam": pytest.approx(mixer.clean_weight / unit), "adv_p": mixer.adversarial_prob, "mixup_prob": mix.prob,
    }  # fmt: skip
    assert config.grid_sizes == (2, 4, 8, 16)
    if mixer.adversarial_prob:
        flags["adv_eps"] = pytest.approx(255 * mixer.adversarial_eps)
    return flags


def model_name(cfg: DictConfig) -> str:
    return cfg.model.get("name") or cfg.model._target_.rsplit(".", 1)[1]


def test_every_experiment_is_in_the_table_and_the_other_way_round() -> None:
    assert sorted([*TABLE, *PHASED]) == NAMES


@pytest.mark.parametrize("name", sorted(TABLE))
def test_experiments_do_what_the_authors_commands_do(name: str, compose_train: Compose) -> None:
    facts = TABLE[name]
    cfg = compose_train(f"experiment={name}", "data.root=/data")
    optimizer, scheduler, data, mix = cfg.optimizer, cfg.scheduler, instantiate(cfg.data), build_optional(cfg, "mix")
    assert (type(data).__name__, model_name(cfg)) == (facts.data, facts.model)
    assert (cfg.epochs, cfg.loss, data.batch_size) == (facts.epochs, facts.loss, facts.batch)
    assert optimizer._target_ == "torch.optim.SGD"
    assert scheduler._target_ == "torch.optim.lr_scheduler.MultiStepLR"
    assert (optimizer.lr, tuple(scheduler.milestones), scheduler.gamma) == (facts.lr, facts.milestones, 0.1)
    common = (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay, cfg.decay_norm, cfg.base_batch_size)
    assert common == (0.9, True, 1e-4, True, None)
    assert cfg.model.get("stem_stride", 1) == facts.stride
    assert (tuple(data.augment), (cfg.consistency_weight, data.views)) == (facts.augment, facts.jsd)
    if facts.padding is not None:
        assert data.crop_padding == facts.padding
    classes = {"CIFAR100DataModule": 100, "TinyImageNetDataModule": 200, "ImageNetDataModule": 1000}[facts.data]
    assert as_flags(mix, cfg, classes) == facts.mix
    assert cfg.name == name


def test_the_authors_networks_have_no_last_norm_and_torch_s_initialization(compose_train: Compose) -> None:
    model = compose_train("experiment=cifar100_preactresnet18_puzzlemix").model
    assert (model.final_norm, model.init) == (False, "torch")


@pytest.mark.parametrize("name", PHASED)
def test_the_three_phases(name: str, compose_train: Compose) -> None:
    cfg = compose_train(f"experiment={name}", "data.root=/copies")
    optimizer, mix = cfg.optimizer, build_optional(cfg, "mix")
    assert (cfg.epochs, cfg.loss, cfg.trainer.reload_dataloaders_every_n_epochs) == (100, "ce", 1)
    assert cfg.clean_stop_epoch == (40 if "puzzlemix" in name else None)
    assert (optimizer._target_, optimizer.momentum) == ("torch.optim.SGD", 0.9)
    assert (optimizer.nesterov, cfg.decay_norm, optimizer.weight_decay) == (False, False, 1e-4)
    assert cfg.scheduler._target_ == "experiments.training.optim.piecewise"
    epochs, rates = zip(*((epoch, optimizer.lr * factor) for epoch, factor in cfg.scheduler.points), strict=True)
    assert epochs == (0, 8, 15, 15, 40, 65, 90, 100)
    assert rates == pytest.approx((0.5, 1.0, 0.125, 0.2, 0.02, 0.002, 2e-4, 2e-5))
    assert as_flags(mix, cfg, 1000) == PHASED[name]
    assert (cfg.model.name, cfg.model.zero_init_residual, cfg.model.head_std) == ("resnet50", True, 0.01)
    phases = [(phase.until, phase.data) for phase in instantiate(cfg.data).phases]
    found = [(until, data.root.name, data.image_size, data.batch_size, data.min_scale) for until, data in phases]
    assert found == [(15, "160", 128, 1024, 0.08), (40, "352", 224, 448, 0.087), (100, "352", 224, 448, 0.087)]
    # Their phases drop an incomplete batch, have no color noise, and are all scored at 224 px.
    assert all((data.drop_last, data.jitter, data.lighting) == (True, 0, 0) for _, data in phases)
    assert all((data.eval_resize, data.eval_size) == (256, 224) for _, data in phases)


@pytest.mark.parametrize("name", NAMES)
def test_experiment_files_start_with_their_command_and_the_published_figure(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1] == f"# python -m experiments.train experiment={name}"
    comments = [line for line in lines if line.startswith("# ")]
    assert any(line.startswith("# Published: ") for line in comments)


def test_experiments_only_override(compose_train: Compose) -> None:
    """Whatever an experiment sets differs from what its data set, model and mix would have given anyway."""
    for name in NAMES:
        raw = OmegaConf.load(CONF / "experiment" / f"{name}.yaml")
        choices = [f"{key.split('/')[-1]}={value}" for entry in raw.defaults for key, value in entry.items()]
        plain = compose_train(*choices, "+data.root=/data" if "data=digits" in choices else "data.root=/data")
        for key in ("epochs", "milestones", "decay_norm", "loss", "clean_stop_epoch"):
            assert key not in raw or raw[key] != plain[key], (name, key)
        for group in ("optimizer", "scheduler", "model", "mix", "data"):
            for key, value in OmegaConf.to_container(raw.get(group, OmegaConf.create({}))).items():
                assert plain[group].get(key) != value, (name, group, key)
