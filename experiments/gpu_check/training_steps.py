"""Times and peak memory of whole training steps: plain, and with each way of mixing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50

from experiments.gpu_check.measuring import Results, milliseconds
from experiments.gpu_check.solver import photographs
from experiments.models import PreActResNet
from lightning_puzzlemix import CutMix, MixUp, PuzzleMix, PuzzleMixConfig


def networks(emulated: bool) -> dict[str, tuple[nn.Module, int, int, int]]:
    """Return network, side of the images, batch and classes by name."""
    if emulated:
        return {"preactresnet18": (PreActResNet(num_classes=10, width=4), 16, 4, 10)}
    return {
        "preactresnet18": (PreActResNet(num_classes=100), 32, 128, 100),
        "resnet50": (resnet50(num_classes=1000), 224, 128, 1000),
    }


def time_steps(results: Results, target: torch.device, *, emulated: bool) -> None:
    """Time whole training steps, plain and with each way of mixing, and the peak of the device's memory."""
    torch.backends.cudnn.benchmark = True
    for name, (net, side, batch, classes) in networks(emulated).items():
        for half in (False, True):
            net = net.to(target, memory_format=torch.channels_last if half else torch.contiguous_format).train()
            images, _ = photographs(batch, side, 5)
            images = images.to(target, memory_format=torch.channels_last if half else torch.contiguous_format)
            targets = torch.randint(classes, (batch,), device=target)
            normal = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
            ways: dict[str, Any] = {
                "plain": None,
                "mixup": MixUp(num_classes=classes),
                "cutmix": CutMix(num_classes=classes),
                "puzzlemix, host": PuzzleMix(PuzzleMixConfig(**normal, solve_on="host")),
            }
            if target.type == "cuda":
                ways["puzzlemix, device"] = PuzzleMix(PuzzleMixConfig(**normal, solve_on="device"))
            ways["saliency alone"] = ways["puzzlemix, host"].source
            times, memory = {}, {}
            for way, mixer in ways.items():
                step = training_step(net, (images - 0.5) / 0.25, targets, mixer, half=half)
                if target.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                times[way] = milliseconds(step, 2 if emulated else 20)
                memory[way] = torch.cuda.max_memory_allocated() / 2**20 if target.type == "cuda" else 0
            precision = "bf16 channels_last" if half else "fp32"
            results.add(f"step ms, {name}, {precision}", times)
            results.add(
                f"step over plain, {name}, {precision}", {way: each / times["plain"] for way, each in times.items()}
            )
            results.add(f"peak MiB, {name}, {precision}", memory)


def training_step(net: nn.Module, images: Tensor, targets: Tensor, mixer: Any, *, half: bool) -> Callable[[int], None]:
    """Return one training step with a mixer, with the saliency alone, or plain."""
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, nesterov=True)

    def context() -> Any:
        return torch.autocast(images.device.type, torch.bfloat16) if half else nullcontext()

    def step(turn: int) -> None:
        inputs, wanted = images, targets
        if hasattr(mixer, "compute"):
            mixer.compute(net, images, targets, forward_context=context)
        elif mixer is not None:
            mixed = mixer(net, images, targets, mixer.draw(images, key=(turn,)), forward_context=context)
            inputs, wanted = mixed.images, mixed.targets
        with context():
            loss = F.cross_entropy(net(inputs), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
