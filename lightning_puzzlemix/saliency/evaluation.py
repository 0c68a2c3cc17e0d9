"""Passes over a model that its author did not write: evaluation mode, and everything restored afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from lightning_puzzlemix.saliency.model_state import preserved_state


@contextmanager
def evaluation_pass(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run the model in evaluation mode and outside inference mode, then restore it and the global random states.

    What is restored is listed at :func:`lightning_puzzlemix.saliency.model_state.preserved_state`.
    """
    with (
        torch.inference_mode(False),
        preserved_state(model),
        _evaluation_mode(model),
        _preserved_random_state(device),
    ):
        yield


@contextmanager
def training_pass(model: nn.Module) -> Iterator[None]:
    """Run the model in its present modes, for clean regularization: only buffers and random states keep what it changes."""
    with torch.inference_mode(False), preserved_state(model, tensors=False):
        yield


@contextmanager
def without_graph() -> Iterator[None]:
    """Record no graph, and leave nothing of that behind in an autocast around this block.

    Autocast keeps its 16-bit copies of the weights until its outermost block ends. Those made without a graph would then
    serve the training step too, and the weights get no gradients.
    """
    try:
        with torch.no_grad():
            yield
    finally:
        torch.clear_autocast_cache()


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every submodule into evaluation mode, and restore each one's own mode afterwards: frozen BatchNorm stays frozen.

    Recurrent layers run in training mode without dropout, which is the same: cuDNN refuses their backward pass otherwise.
    """
    modes = [(module, module.training) for module in model.modules()]
    # A subclass with a forward of its own may do more by its mode than switch the dropout.
    plain = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)
    recurrent = [each for each, _ in modes if isinstance(each, nn.RNNBase) and type(each).forward in plain]
    dropouts = [(rnn, rnn.dropout) for rnn in recurrent]
    # The flag itself: train() and eval() are overridden by models that keep parts of themselves frozen.
    for module, _ in modes:
        module.training = False
    for rnn in recurrent:
        rnn.training, rnn.dropout = True, 0.0
    try:
        yield
    finally:
        for rnn, dropout in dropouts:
            rnn.dropout = dropout
        for module, mode in modes:
            module.training = mode


@contextmanager
def _preserved_random_state(device: torch.device) -> Iterator[None]:
    """Restore the global random states, which a model that samples in evaluation mode would advance."""
    backend = getattr(torch, device.type, None)
    forkable = device.type != "cpu" and hasattr(backend, "get_rng_state_all")
    devices = [device] if forkable else []
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices, device_type=device.type if forkable else "cuda"):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
