"""docs/recipes.md is true: its loop trains as by hand, the Hugging Face recipe runs as printed, its names exist."""

from __future__ import annotations

import copy
import inspect
import json
import re
from pathlib import Path
from typing import Any

import documents
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lightning_puzzlemix as pm

PAGE = documents.DOCS / "recipes.md"
BLOCKS = documents.blocks(PAGE, "python")
IMAGES, CLASSES = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(5)), torch.arange(8) % 5


class Kept(pm.PuzzleMix):
    """Keeps what it returned."""

    def __init__(self, **options: Any) -> None:
        super().__init__(pm.PuzzleMixConfig(grid_sizes=(2, 4), alpha=10), **options)
        self.kept: list[pm.MixedBatch] = []

    def __call__(self, *arguments: Any, **options: Any) -> pm.MixedBatch:
        self.kept.append(super().__call__(*arguments, **options))
        return self.kept[-1]


def plain_loop() -> Any:
    space: dict[str, Any] = {}
    (block,) = [each for each in BLOCKS if "def train_epoch" in each]
    exec(block.rpartition("\n\n")[0], space)
    return space["train_epoch"]


def small_net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))


def classes_of(mixed: pm.MixedBatch) -> Tensor:
    """Find the classes of a shuffled batch by its images."""
    return CLASSES[[int((image == IMAGES).flatten(1).all(1).nonzero()) for image in mixed.originals]]


@pytest.mark.parametrize("clean_weight", [0.0, 0.5])
def test_the_plain_loop_takes_the_step_of_the_mean_loss(clean_weight: float) -> None:
    net, mixer = small_net(), Kept(clean_weight=clean_weight)
    before = copy.deepcopy(net)
    loader = [(IMAGES[:4], CLASSES[:4]), (IMAGES[4:], CLASSES[4:])]
    plain_loop()(net, loader, torch.optim.SGD(net.parameters(), 0.1), mixer, dtype=torch.float32)
    net_by_hand, losses = copy.deepcopy(before), []
    for mixed in mixer.kept:
        losses.append(F.cross_entropy(net_by_hand(mixed.images), mixed.targets))
        losses.append(clean_weight * F.cross_entropy(net_by_hand(mixed.originals), classes_of(mixed)))
    (torch.stack(losses).sum() / 2).backward()
    for new, old in zip(net.parameters(), net_by_hand.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.1 * old.grad, atol=1e-6, rtol=1e-5)
    assert mixer.kept[0].draw.lam != mixer.kept[1].draw.lam


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_plain_loop_mixes_by_the_saliency_of_its_precision(dtype: torch.dtype) -> None:
    net, mixer = small_net(), Kept()
    before = copy.deepcopy(net).eval()
    plain_loop()(net, [(IMAGES, CLASSES)], torch.optim.SGD(net.parameters(), 0.1), mixer, dtype=dtype)
    leaf = IMAGES.clone().requires_grad_()
    with torch.autocast("cpu", dtype):
        logits = before(leaf)
    F.cross_entropy(logits.float(), CLASSES, reduction="sum").backward()
    assert leaf.grad is not None
    expected, found = leaf.grad.square().mean(1).sqrt() / 8, mixer.kept[0].saliency
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.01 * float(expected.max()))
    assert all(bool(weight.isfinite().all()) for weight in net.parameters())
    assert not torch.equal(net[0].weight, before[0].weight)


def test_the_loops_draws_depend_on_rank_and_batch_alone() -> None:
    draws = []
    for rank in (0, 0, 1):
        mixer, net = Kept(), small_net()
        torch.manual_seed(len(draws))
        plain_loop()(net, [(IMAGES, CLASSES)], torch.optim.SGD(net.parameters(), 0.1), mixer, rank=rank)
        draws.append(mixer.kept[0].draw)
    assert torch.equal(draws[0].permutation, draws[1].permutation)
    assert draws[0].lam == draws[1].lam != draws[2].lam


def train_on_a_rank(rank: int, store: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    net, mixer = small_net(), Kept(clean_weight=0.5)
    wrapped, rows = nn.parallel.DistributedDataParallel(net), slice(4 * rank, 4 * rank + 4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    loader = [(IMAGES[rows], CLASSES[rows])]
    plain_loop()(wrapped, loader, optimizer, mixer, rank=rank, accumulate=1, dtype=torch.float32)
    torch.save((net.state_dict(), mixer.kept[0]), Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_the_plain_loop_on_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train_on_a_rank, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    net, losses = small_net(), []
    for _, mixed in found:
        losses.append(F.cross_entropy(net(mixed.images), mixed.targets))
        losses.append(0.5 * F.cross_entropy(net(mixed.originals), classes_of(mixed)))
    (torch.stack(losses).sum() / 2).backward()
    for name, old in net.named_parameters():
        torch.testing.assert_close(found[0][0][name], old - 0.1 * old.grad, atol=1e-6, rtol=1e-5)
        assert torch.equal(found[0][0][name], found[1][0][name])
    assert found[0][1].draw.lam != found[1][1].draw.lam


class Rows(torch.utils.data.Dataset):
    def __init__(self, soft: bool = False) -> None:
        one_hot = F.one_hot(CLASSES, 5).float()
        self.labels = 0.9 * one_hot + 0.02 if soft else CLASSES

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": IMAGES[index], "labels": self.labels[index]}


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """The namespace of the recipe, and what a reader has: a model and arguments."""
    transformers = pytest.importorskip("transformers", reason="run by make test-recipes")
    pytest.importorskip("accelerate", reason="run by make test-recipes")
    space: dict[str, Any] = {}
    class_block, run_block = [each for each in BLOCKS if "PuzzleMixTrainer" in each]
    exec(class_block, space)

    def train(mixer: pm.PuzzleMix, *, soft: bool = False, resume: bool = False, **arguments: Any) -> Any:
        torch.manual_seed(0)
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=4,
            num_labels=5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        if soft:
            config.problem_type = "single_label_classification"
        vit = transformers.ViTForImageClassification(config)
        settings = {"max_steps": 1, "gradient_accumulation_steps": 2, "learning_rate": 0.5, "optim": "sgd"}
        settings |= {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, "save_strategy": "no"}
        training_arguments = transformers.TrainingArguments(
            str(tmp_path), use_cpu=True, per_device_train_batch_size=4, report_to=[], disable_tqdm=True,
            dataloader_pin_memory=False, seed=3, **settings | arguments,
        )  # fmt: skip
        names = {"vit": vit, "training_arguments": training_arguments, "dataset": Rows(soft)}
        given = space | names | {"before": copy.deepcopy(vit)}
        run = run_block if not resume else run_block.replace("train()", "train(resume_from_checkpoint=True)")
        _, _, rest = run.partition("\n")
        exec(rest, given | {"mixer": mixer}, given)
        return given["trainer"], given["before"]

    train.as_printed = run_block  # type: ignore[attr-defined]
    train.space = space  # type: ignore[attr-defined]
    return train


@pytest.mark.parametrize(("clean_weight", "smoothing"), [(0.0, 0.0), (0.5, 0.1)])
def test_hugging_face_takes_the_step_of_the_mean_loss(recipe: Any, clean_weight: float, smoothing: float) -> None:
    mixer = Kept(clean_weight=clean_weight)
    trainer, before = recipe(mixer, label_smoothing_factor=smoothing)
    assert len(mixer.kept) == 2
    net = copy.deepcopy(before).train()
    losses = []
    for mixed in mixer.kept:
        assert not torch.equal(mixed.images, mixed.originals)
        losses.append(F.cross_entropy(net(mixed.images).logits, mixed.targets, label_smoothing=smoothing))
        losses.append(clean_weight * F.cross_entropy(net(mixed.originals).logits, classes_of(mixed)))
    (torch.stack(losses).sum() / 2).backward()
    for new, old in zip(trainer.model.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.5 * old.grad, atol=1e-6, rtol=1e-5)
    # The batches of one step are mixed by different draws.
    assert mixer.kept[0].draw.lam != mixer.kept[1].draw.lam
    assert trainer.model.training


def test_hugging_face_evaluates_without_mixing(recipe: Any) -> None:
    mixer = Kept()
    trainer, _ = recipe(mixer)
    count = len(mixer.kept)
    found = trainer.evaluate()["eval_loss"]
    with torch.no_grad():
        logits = trainer.model(IMAGES).logits
    assert found == pytest.approx(float(F.cross_entropy(logits, CLASSES)), rel=1e-5)
    predicted = trainer.predict(Rows())
    torch.testing.assert_close(torch.from_numpy(predicted.predictions), logits)
    assert len(mixer.kept) == count


def test_hugging_face_with_soft_labels(recipe: Any) -> None:
    mixer = Kept()
    recipe(mixer, soft=True)
    for mixed in mixer.kept:
        assert mixed.targets.min() >= 0.02 - 1e-6
        torch.testing.assert_close(mixed.targets.sum(1), torch.ones(4))


def test_hugging_face_computes_saliency_in_the_precision_of_the_step(recipe: Any) -> None:
    mixer = Kept()
    _, before = recipe(mixer, bf16=True)
    mixed, leaf = mixer.kept[0], mixer.kept[0].originals.clone().requires_grad_()
    classes = classes_of(mixed)

    def saliency(enabled: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = before.eval()(leaf).logits
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits.float(), classes, reduction="sum"), leaf)
        return gradient.square().mean(1).sqrt() / 4

    assert mixed.saliency is not None
    torch.testing.assert_close(mixed.saliency, saliency(True), rtol=1e-3, atol=1e-7)
    assert not torch.allclose(mixed.saliency, saliency(False), rtol=1e-3, atol=1e-7)


def test_hugging_face_resumes_with_the_same_draws(recipe: Any) -> None:
    whole, resumed = Kept(), Kept()
    recipe(whole, max_steps=4, gradient_accumulation_steps=1)
    trainer, _ = recipe(Kept(), max_steps=2, gradient_accumulation_steps=1, save_strategy="steps", save_steps=2)
    assert trainer.state.global_step == 2
    recipe(resumed, max_steps=4, resume=True, gradient_accumulation_steps=1)
    assert len(resumed.kept) == 2
    for one, other in zip(whole.kept[2:], resumed.kept, strict=True):
        assert torch.equal(one.draw.permutation, other.draw.permutation)
        assert one.draw.lam == other.draw.lam


def test_the_hugging_face_recipe_runs_as_printed(recipe: Any) -> None:
    trainer, _ = recipe(Kept())
    space = recipe.space | {"vit": trainer.model, "training_arguments": trainer.args, "dataset": Rows()}
    exec(recipe.as_printed, space)
    assert space["trainer"].state.global_step == 1


LIBRARY_TABLES = ["timm", "torchvision", "mmpretrain", "Composer", "the authors' code"]


def rows_of(library: str) -> list[list[str]]:
    section = re.search(rf"^### From {re.escape(library)}\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    lines = [line for line in section[1].splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def parameters_of(function: Any) -> set[str]:
    """Names of all arguments, with those that go on to the base class."""
    names = set(inspect.signature(function).parameters)
    return names | (set(inspect.signature(pm.MixCallback).parameters) if "options" in names else set())


@pytest.mark.parametrize("library", LIBRARY_TABLES)
def test_the_names_on_our_side_exist(library: str) -> None:
    rows = rows_of(library)
    assert len(rows) > 3
    for theirs, ours, remark in rows:
        assert documents.code_in(theirs)
        assert ours == "—" or documents.code_in(ours)
        assert remark or ours != "—", f"{theirs} has no counterpart, and no reason is given"
        if ours == "—":
            continue
        *names, owner = documents.code_in(ours)
        assert inspect.isclass(getattr(pm, owner)), owner
        assert set(names) <= parameters_of(getattr(pm, owner)), f"{ours}: {parameters_of(getattr(pm, owner))}"


def test_the_names_of_the_installed_libraries_exist() -> None:
    timm, v2 = pytest.importorskip("timm.data"), pytest.importorskip("torchvision.transforms.v2")
    theirs = {name for row in rows_of("timm") for name in documents.code_in(row[0])}
    assert theirs == set(inspect.signature(timm.Mixup).parameters)
    theirs = {
        name for row in rows_of("torchvision") for name in documents.code_in(row[0]) if hasattr(v2, name) is False
    }
    assert theirs == set(inspect.signature(v2.MixUp).parameters) == set(inspect.signature(v2.CutMix).parameters)


def test_code_in_the_tables_runs() -> None:
    (row,) = [row for row in rows_of("timm") if row[0] == "`switch_prob`"]
    mixing = eval(documents.code_in(row[2])[0], {"pm": pm, "switch_prob": 0.25})
    assert [type(each).__name__ for each in mixing.callbacks] == ["MixUpCallback", "CutMixCallback"]
    assert mixing.weights == [0.75, 0.25]


def test_the_numbers_of_vision_transformers_are_those_of_the_file() -> None:
    rows = documents.table_rows(documents.DOCS / "saliency.md", "Vision transformers")
    file = json.loads((documents.REPOSITORY / "experiments/results/vit_saliency.json").read_text())
    shown = [[float(number) for cell in row[1:] for number in re.findall(r"[\d.]+", cell)] for row in rows]
    names = [["pixels"], ["blocks"], ["top_tenth"], ["retained_saliency", "retained_saliency_cutmix"]]
    for numbers, keys in zip(shown, names, strict=True):
        assert numbers == pytest.approx([net[key] for net in file.values() for key in keys], abs=0.006)


@pytest.mark.slow
def test_the_picture_of_vision_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = pytest.importorskip("docs.vit_saliency")
    small = {"STEPS": 1, "CROPS": 12, "PICTURE": tmp_path / "picture.png", "NUMBERS": tmp_path / "numbers.json"}
    for name, value in small.items():
        monkeypatch.setattr(script, name, value)
    script.main()
    assert small["PICTURE"].stat().st_size > 10_000
    found = json.loads(small["NUMBERS"].read_text())
    # Within a patch all saliency is one number.
    assert found["ViT, at its patches"]["pixels"] == pytest.approx(1)
    assert found["ViT"]["pixels"] > 1
