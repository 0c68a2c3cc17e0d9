"""A pass that the user did not write leaves no trace in models as strangers write them."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchmetrics
from distributed_cases import Batches, Classifier, config, quiet
from platforms import needs_compile
from torch import Tensor, nn
from witness import Witness

import lightning_puzzlemix as pm
from lightning_puzzlemix.saliency import model_state

IMAGES, CLASSES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(2)), torch.arange(8) % 4
COLLECTED: list[Tensor] = []
CALLS = 0


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))


class Recorder(nn.Module):
    """Keeps something of every forward pass, in each of the ways that come to mind, whatever its mode."""

    shared: list[Tensor] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.calls, self.last, self.names = 0, None, set()
        self.kept, self.by_name, self.recent = [], {"all": []}, deque(maxlen=2)
        self.meter = Meter()
        self.hidden = [Meter(), (network(), torch.zeros(2))]
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("range", torch.zeros(0))
        self.register_buffer("mean", torch.zeros(4))
        self.u = nn.Parameter(torch.ones(3), requires_grad=False)
        self.histogram = np.zeros(4)
        self.generator, self.rng = torch.Generator().manual_seed(1), np.random.default_rng(1)
        self.cache = torch.zeros(4)
        self.score = torchmetrics.MeanMetric()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        self.calls += 1
        self.last = logits
        self.new = logits.detach()
        self.names.add(self.calls)
        for collection in (self.kept, self.by_name["all"], self.recent, self.shared):
            collection.append(logits)
        self.by_name[f"pass {self.calls}"] = logits
        self.meter.update(logits)
        self.hidden[0].update(logits)
        self.hidden[1][1].add_(1)
        self.count.add_(1)
        self.range.data.resize_(2).fill_(3)
        self.mean = 0.9 * self.mean + 0.1
        self.u.data.mul_(2)
        self.histogram += 1
        torch.rand(1, generator=self.generator), self.rng.random(), random.random(), np.random.rand()  # noqa: NPY002
        self.cache[:2] = 7
        self.score.update(logits.detach().mean())
        return logits


class Meter:
    def __init__(self) -> None:
        self.total, self.values = 0.0, []

    def update(self, logits: Tensor) -> None:
        self.total += float(logits.detach().sum())
        self.values.append(logits)


def everything(value: Any, seen: set[int] | None = None) -> Any:
    """Describe a value and all that it holds by plain values."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        return value.detach().tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, (list, tuple, deque)):
        return [everything(each, seen) for each in value]
    if isinstance(value, (dict, set)):
        entries = value.items() if isinstance(value, dict) else value
        return [everything(each, seen) for each in entries]
    if isinstance(value, (nn.Module, Meter)) and id(value) not in seen:
        seen.add(id(value))
        return everything({k: v for k, v in vars(value).items() if not callable(v) or isinstance(v, nn.Module)}, seen)
    return value if isinstance(value, (int, float, str, bool, type(None))) else type(value).__name__


@pytest.mark.parametrize(
    "mixer",
    [
        pm.PuzzleMix(config()),
        pm.PuzzleMix(config(), saliency="feature", saliency_layer="net.0"),
        pm.PuzzleMix(config(), saliency="spectral"),
        pm.MixUp(),
    ],
    ids=["gradient", "feature", "count for spectral", "count for mixup"],
)
def test_whatever_a_model_records_is_as_before(mixer: Any) -> None:
    model = Recorder()
    model(IMAGES)
    Recorder.shared.clear()
    states = everything([model, Recorder.shared]), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    last = model.last
    mixed = mixer(model, IMAGES, CLASSES)
    assert (everything([model, Recorder.shared]), random.getstate(), str(np.random.get_state())) == states  # noqa: NPY002
    assert model.last is last
    assert mixed.targets.shape == (8, 4)


def test_clean_regularization_keeps_statistics_but_no_records() -> None:
    model = Recorder()
    mixer = pm.PuzzleMix(config(), clean_weight=1.0)
    mixer(model, IMAGES, CLASSES)
    assert (model.calls, model.kept, model.by_name, model.last) == (0, [], {"all": []}, None)
    assert float(model.count) == 1, "buffers are updated as by a training step"


def _outer_list() -> tuple[Callable[..., None], Callable[[], Any]]:
    kept: list[Tensor] = []
    return lambda module, inputs, output: kept.append(output), lambda: list(kept)


def _outer_count() -> tuple[Callable[..., None], Callable[[], Any]]:
    count = 0

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal count
        count += 1

    return hook, lambda: count


def _global_list() -> tuple[Callable[..., None], Callable[[], Any]]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        global CALLS
        COLLECTED.append(output)
        CALLS += 1

    return hook, lambda: (list(COLLECTED), CALLS)


class Extractor:
    """As feature extractors do, it holds the hook and what the hook found."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def keep(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.found[name] = output

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.keep("called", module, inputs, output)


def _bound() -> tuple[Callable[..., None], Callable[[], Any]]:
    extractor = Extractor()
    return functools.partial(extractor.keep, "conv"), lambda: dict(extractor.found)


def _object() -> tuple[Callable[..., None], Callable[[], Any]]:
    extractor = Extractor()
    return extractor, lambda: dict(extractor.found)


class Watching(pl.Callback):
    """A callback whose method is the hook."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.found.append(output)


def _callback() -> tuple[Callable[..., None], Callable[[], Any]]:
    watching = Watching()
    return watching.keep, lambda: list(watching.found)


HOOKS = [_outer_list, _outer_count, _global_list, _bound, _object, _callback]


@pytest.mark.parametrize("make", HOOKS)
@pytest.mark.parametrize("clean_weight", [0.0, 1.0])
def test_hooks_collect_nothing_from_our_passes(make: Callable[[], Any], clean_weight: float) -> None:
    hook, found = make()
    model = network()
    handle = model[0].register_forward_hook(hook)
    backward = model[0].register_full_backward_hook(
        lambda module, grad_input, grad_output: hook(module, (), grad_output[0])
    )
    before = found()
    pm.PuzzleMix(config(), clean_weight=clean_weight)(model, IMAGES, CLASSES)
    assert found() == before
    model(IMAGES)
    assert found() != before, "the hook is still there"
    handle.remove()
    backward.remove()


def test_hooks_that_change_outputs_are_part_of_the_model() -> None:
    model, expected = network(), network()
    expected.load_state_dict(model.state_dict())
    model[0].register_forward_hook(lambda module, inputs, output: 3 * output)
    with torch.no_grad():
        expected[0].weight.mul_(3)
        expected[0].bias.mul_(3)
    draw = pm.MixDraw(torch.arange(8), 0.5, 2)
    ours, theirs = (pm.PuzzleMix(config())(each, IMAGES, CLASSES, draw).saliency for each in (model, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        lambda conv: nn.utils.prune.l1_unstructured(conv, "weight", 0.5),
    ],
    ids=["weight_norm", "spectral_norm", "parametrized spectral", "parametrized weight", "prune"],
)
def test_reparametrised_layers(wrap: Callable[[nn.Module], Any]) -> None:
    import torch.nn.utils.prune

    model = network()
    wrap(model[0])
    state = {name: each.clone() for name, each in model.state_dict().items()}
    assert pm.PuzzleMix(config())(model, IMAGES, CLASSES).saliency.max() > 0
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())
    model(IMAGES).sum().backward()


def test_observers_of_quantization() -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    model = nn.Sequential(quantization.FakeQuantize(), network())
    state = {name: each.clone() for name, each in model.state_dict().items()}
    pm.PuzzleMix(config())(model, IMAGES, CLASSES)
    after = model.state_dict()
    assert all(torch.equal(after[name], each) for name, each in state.items())


def test_a_large_tensor_is_not_copied_but_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_puzzlemix.saliency.model_state._LARGEST_TENSOR", 100)
    model = Recorder()
    model.register_buffer("queue", torch.zeros(100))
    pm.PuzzleMix(config())(model, IMAGES, CLASSES)
    model.score.register_forward_pre_hook(lambda *_: None)
    model.forward = lambda images: (model.queue.add_(1), model.net(images))[1]  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match=r"Recorder.queue.*only if self.training"):
        pm.PuzzleMix(config())(model, IMAGES, CLASSES)


def test_records_come_back_after_an_error() -> None:
    model = Recorder()
    model.net[3].register_forward_hook(lambda *_: 1 / 0)
    model.calls = 5
    with pytest.raises(ZeroDivisionError):
        pm.PuzzleMix(config())(model, IMAGES, CLASSES)
    assert (model.calls, model.last, model.training) == (5, None, True)


def test_logging_in_forward_is_the_users_alone() -> None:
    class Logging(Classifier):
        def forward(self, images: Tensor) -> Tensor:
            self.log("brightness", images.mean(), on_step=False, on_epoch=True, batch_size=len(images))
            return super().forward(images)

    class Partner(pm.PuzzleMixCallback):
        def draw(self, images: Tensor, **_: Any) -> pm.MixDraw:
            return pm.MixDraw(torch.zeros(len(images), dtype=torch.int64), 0.0, 2)

    module = Logging()
    trainer = quiet(Partner(config(eta=5.0), seed=1))
    trainer.fit(module, Batches(count=3))
    seen = torch.stack([images.mean() for images, *_ in module.journal]).mean()
    torch.testing.assert_close(trainer.callback_metrics["brightness"], seen)
    assert not {"log", "log_dict"} & module.__dict__.keys()


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_run_as_cudnn_wants_it_without_dropout(kind: type[nn.RNNBase]) -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = kind(24, 6, num_layers=2, dropout=0.5, batch_first=True), nn.Linear(6, 4)

        def forward(self, images: Tensor) -> Tensor:
            modes.add((self.training, self.rnn.training, self.rnn.dropout))
            return self.head(self.rnn(images.permute(0, 2, 1, 3).flatten(2))[0][:, -1])

    modes = Witness()
    model = Sequence()
    found = pm.PuzzleMix(config())(model, IMAGES, CLASSES).saliency
    assert modes.seen() == [(False, True, 0.0)]
    assert (model.rnn.training, model.rnn.dropout) == (True, 0.5)
    leaf = IMAGES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(model.eval()(leaf), CLASSES), leaf)
    torch.testing.assert_close(found, expected.square().mean(1).sqrt())


class Reversed(torch.autograd.Function):
    """Gradient reversal, which cannot be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Reversal(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return Reversed.apply(values)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.script(network()),
        lambda: nn.Sequential(torch.jit.script(nn.BatchNorm2d(3)), network()),
        pytest.param(lambda: torch.compile(network(), backend="eager"), marks=needs_compile),
        lambda: nn.Sequential(nn.SyncBatchNorm(3), network()),
        lambda: nn.Sequential(nn.BatchNorm2d(3, momentum=None), network()),
        lambda: nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True), network()),
        lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(4)),
        lambda: network().to(memory_format=torch.channels_last),
        lambda: nn.DataParallel(network()),
        lambda: nn.Sequential(Reversal(), network()),
    ],
    ids=["scripted", "scripted part", "compiled", "sync", "momentum", "instance", "lazy", "strides", "parallel", "custom"],
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"clean_weight": 1.0}, {"saliency": "spectral"}])
def test_ordinary_models_run(make: Callable[[], nn.Module], options: dict[str, Any]) -> None:
    model = make()
    if "clean_weight" in options and isinstance(
        model[0] if isinstance(model, nn.Sequential) else model, nn.SyncBatchNorm
    ):
        pytest.skip("SyncBatchNorm trains on accelerators alone")
    lazy = any(isinstance(each, nn.modules.lazy.LazyModuleMixin) for each in model.modules())
    before = None if lazy else {name: each.clone() for name, each in model.state_dict().items()}
    mixed = pm.PuzzleMix(config(), **options)(model, IMAGES, CLASSES)
    assert mixed.saliency.flatten(1).amax(1).min() > 0
    assert all(each.training for each in model.modules())
    if before is not None and "clean_weight" not in options:
        assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    if not any(isinstance(each, nn.SyncBatchNorm) for each in model.modules()):
        model(IMAGES).sum().backward()


CALLED: list[int] = []
TOTAL = 0


def helper(logits: Tensor) -> Tensor:
    """Record in globals, and on itself."""
    global TOTAL
    TOTAL += 1
    CALLED.append(TOTAL)
    helper.calls = getattr(helper, "calls", 0) + 1
    return logits


class Registry:
    """Records on the class."""

    total = 0
    recent: deque[int] = deque(maxlen=2)  # noqa: RUF012

    @classmethod
    def add(cls, logits: Tensor) -> Tensor:
        cls.total += 1
        cls.recent.append(cls.total)
        cls.new = cls.total
        return logits


class Slotted:
    """Has no ``__dict__``."""

    __slots__ = ("calls", "kept")

    def __init__(self) -> None:
        self.kept: list[int] = []


class Straight(torch.autograd.Function):
    """Counts where forward does not see it."""

    calls = 0

    @staticmethod
    def forward(context: Any, logits: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        Straight.calls += 1
        return gradient


class Outside(nn.Module):
    """Records outside of itself, in ways that no attribute of a module shows."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        self.net, self.slotted = network(), Slotted()
        self.closure, self.peek = counted(lambda logits: logits)
        self.net[3].forward, self.peek_patched = counted(self.net[3].forward)

    def forward(self, images: Tensor) -> Tensor:
        type(self).made += 1
        self.slotted.calls = len(self.slotted.kept)
        self.slotted.kept.append(1)
        return self.finish(self.closure(self.net(images)))

    def finish(self, logits: Tensor) -> Tensor:
        return Straight.apply(Registry.add(helper(logits)))

    def records(self) -> list[Any]:
        slots = (list(self.slotted.kept), hasattr(self.slotted, "calls"))
        classes = (Registry.total, list(Registry.recent), hasattr(Registry, "new"), Straight.calls, Outside.made)
        return [TOTAL, list(CALLED), vars(helper).copy(), slots, classes, self.peek(), self.peek_patched()]


def counted(function: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], Callable[[], int]]:
    """Count calls in a closure; return the wrapped function and one that tells how many there were."""
    calls = 0

    def call(values: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return function(values)

    return call, lambda: calls


@pytest.mark.parametrize("source", ["gradient", "feature", "spectral"])
def test_what_forward_records_outside_the_model_is_as_before(source: str) -> None:
    model = Outside()
    before = model.records()
    pm.PuzzleMix(config(), saliency=source)(model, IMAGES, CLASSES)
    assert model.records() == before
    model(IMAGES)
    assert model.records() != before


class MomentumEncoder(nn.Module):
    """Follows its own weights by a moving average in forward, as momentum contrast does, in one of two ways."""

    def __init__(self, through_data: bool) -> None:
        super().__init__()
        self.through_data = through_data
        self.net, self.slow, self.fixed = network(), network().requires_grad_(False), network().requires_grad_(False)
        self.table = nn.ParameterList([nn.Parameter(torch.ones(4, 4), requires_grad=False)])

    @torch.no_grad()
    def follow(self) -> None:
        for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
            if self.through_data:
                slow.data = 0.9 * slow.data + 0.1 * fast.data
            else:
                slow.mul_(0.9).add_(fast, alpha=0.1)
        self.table[0].data.mul_(0.5)

    def forward(self, images: Tensor) -> Tensor:
        self.follow()
        return self.net(images) + 0 * self.slow(images) + 0 * self.fixed(images)


@pytest.mark.parametrize("through_data", [False, True])
@pytest.mark.parametrize("source", ["gradient", "feature", "spectral"])
def test_frozen_weights_that_forward_writes_are_as_before(source: str, through_data: bool) -> None:
    model = MomentumEncoder(through_data)
    mixer = pm.PuzzleMix(config(), saliency=source, saliency_layer="net.0" if source == "feature" else None)
    for _ in range(3):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        mixer(model, IMAGES, CLASSES)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
        # One step of the user's own, which is to count.
        model(IMAGES)
        assert not torch.equal(model.slow[0].weight, before["slow.0.weight"])


def test_frozen_weights_that_nobody_writes_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, mixer = MomentumEncoder(False), pm.PuzzleMix(config())
    copied = []
    original = model_state._Snapshot._watch_tensor

    def watch(self: Any, tensor: Tensor, path: str) -> Tensor | None:
        values = original(self, tensor, path)
        if values is not None:
            copied.append(path)
        return values

    monkeypatch.setattr(model_state._Snapshot, "_watch_tensor", watch)
    mixer(model, IMAGES, CLASSES)
    assert {"fixed.0.weight", "slow.0.weight", "table.0"} <= set(copied)
    copied.clear()
    mixer(model, IMAGES, CLASSES)
    assert {"slow.0.weight", "table.0"} <= set(copied)
    assert "fixed.0.weight" not in copied
