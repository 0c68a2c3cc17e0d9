"""Restores a model after a pass that its author did not write: attributes, collections, buffers, and what hooks collect."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_puzzlemix.saliency.frozen_weights import FrozenWeights
from lightning_puzzlemix.saliency.restore import (
    restore_class,
    restore_collection,
    restore_names,
    restore_slots,
    restore_tensor,
    warn_if_changed,
)
from lightning_puzzlemix.saliency.user_code import (
    captured,
    is_kept,
    is_user_code,
    methods,
    methods_called,
    user_attributes,
    user_classes,
    user_slots,
)

# What every module has. Its contents are recorded by name below.
_MODULE_INTERNALS = frozenset(nn.Module().__dict__)
# In evaluation mode torch's own layers leave these alone.
_USUAL_TENSORS = frozenset({"weight", "bias", "running_mean", "running_var", "num_batches_tracked"})
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
_COLLECTIONS = (list, dict, set, deque)
_FUNCTIONS = (FunctionType, MethodType, partial)
_PLAIN = (int, float, complex, str, bytes, bool, type(None), type, torch.dtype, torch.device, torch.Size)
# Entries of longer collections are restored, but not their contents.
_MOST_ENTRIES = 1024
_MOST_OBJECTS = 20_000
# A copy of a larger tensor in each batch would cost more than it saves; a change to one is reported.
_LARGEST_TENSOR = 64 * 2**20


@contextmanager
def preserved_state(model: nn.Module, *, tensors: bool = True) -> Iterator[None]:
    """Restore a model's state after a forward and a backward pass in this block.

    Restored are: attributes of all modules (reassigned, added, deleted); lists, dicts, sets, deques and NumPy arrays that
    are reachable from them, through user-defined objects too; what users' hooks and forward methods, and the functions that
    these name, keep in closures, defaults, globals, classes, and objects that they belong to; with ``tensors`` also values
    of buffers, of frozen parameters (up to 1 GiB in the first pass), and of tensors and generators held as
    attributes. ``self.log`` does nothing meanwhile.

    Not restored: trainable parameters (who writes them in forward, as weight clipping does, writes the same again),
    tensors of more than 64 MiB (a change is warned of), objects of installed libraries other than modules, attributes
    inside TorchScript, and what has left the process, such as lines printed, files written, or calls to a logger.

    Args:
        model: The model; modules of torch.distributed inside it keep track of their own state and are left alone.
        tensors: ``False`` keeps what the pass did to buffers and other tensors, for clean regularization.
    """
    snapshot = _Snapshot(model, tensors)
    snapshot.watch_model(model)
    _silence_logs(model)
    try:
        yield
    finally:
        snapshot.restore()


def _silence_logs(model: nn.Module) -> None:
    """Shadow ``log`` and ``log_dict`` of LightningModules until their attributes are restored."""
    for module in model.modules():
        if hasattr(type(module), "log_dict") and hasattr(type(module), "training_step"):
            module.__dict__["log"] = module.__dict__["log_dict"] = _log_nothing


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for ``self.log`` in a forward pass that the user did not write."""


class _Snapshot:
    """Walks through everything a model can reach, and records how to restore it."""

    def __init__(self, model: nn.Module, tensors: bool) -> None:
        self._with_tensors = tensors
        self._frozen = FrozenWeights.of(model)
        self._seen: dict[int, Any] = {}
        self._undo: list[Callable[[], Any]] = []

    def watch_model(self, model: nn.Module) -> None:
        """Record every module, and the hooks that run for all modules."""
        for name, module in model.named_modules():
            self._watch_module(module, name or type(module).__name__)
        for hooks in _GLOBAL_HOOKS:
            for hook in getattr(nn.modules.module, hooks, {}).values():
                self._watch_function(hook, hooks)

    def _watch_module(self, module: nn.Module, name: str) -> None:
        kind = type(module).__module__
        if id(module) in self._seen or kind.startswith(("torch.distributed", "torch.nn.parallel", "torch._dynamo")):
            return
        # A lazy module that runs for the first time becomes another one, and must not be turned back by halves.
        if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
            return
        self._seen[id(module)] = module
        hooks = [hook for hooks in _HOOKS for hook in getattr(module, hooks, {}).values()]
        for hook in hooks:
            self._watch_function(hook, name)
        if self._with_tensors:
            self._watch_registered(module, name)
        # torch's own layers keep no attributes in forward, TorchScript's are out of reach.
        if kind.startswith("torch.jit") or (
            kind.startswith("torch.nn.modules.") and not hooks and "forward" not in module.__dict__
        ):
            return
        self._watch_names(module.__dict__, name, skip=_MODULE_INTERNALS)
        self._watch_class(type(module), name)
        for function in methods_called(type(module), "forward", "__call__"):
            self._watch_function(function, name)
        self._watch_names(module._modules, name, inside=False)
        if self._with_tensors:
            self._watch_names(module._buffers, name, inside=False)
        self._watch_function(module.__dict__.get("forward"), name)

    def _watch_registered(self, module: nn.Module, name: str) -> None:
        """Record the values of buffers, and of frozen parameters.

        Vectors of unusual names, as those of hand-written spectral normalization, are small. Weights are recorded in each pass
        only where forward has written to them in the first one, as to those of a momentum encoder.
        """
        # So do BatchNorms of libraries; a user's own may adapt its statistics in every mode.
        settled = isinstance(module, nn.modules.batchnorm._NormBase) and not is_user_code(module)
        settled |= type(module).__module__.startswith("torch.nn.modules.")
        usual = _USUAL_TENSORS if settled else frozenset()
        # Not through named_buffers and named_parameters, which take most of the time of a snapshot.
        for key, buffer in module._buffers.items():
            if buffer is not None and key not in usual:
                self._watch_tensor(buffer, f"{name}.{key}")
        for key, parameter in module._parameters.items():
            if parameter is None or parameter.requires_grad:
                continue
            path = f"{name}.{key}"
            if (parameter.ndim <= 1 and key not in _USUAL_TENSORS) or self._frozen.written.get(path):
                self._watch_tensor(parameter, path)
            elif self._frozen.can_compare(path, parameter):
                self._frozen.compare(path, parameter, self._watch_tensor(parameter, path))

    def _watch_names(
        self, names: MutableMapping[str, Any], path: str, *, skip: frozenset[str] = frozenset(), inside: bool = True
    ) -> None:
        """Record the bindings of a namespace and, where ``inside``, what the values hold."""
        found = {name: value for name, value in names.items() if name not in skip}
        self._undo.append(partial(restore_names, names, found, skip))
        if inside:
            for name, value in found.items():
                self._watch(value, f"{path}.{name}")

    def _watch(self, value: Any, path: str) -> None:
        """Record a value and what is reachable from it."""
        if isinstance(value, _PLAIN) or id(value) in self._seen or len(self._seen) > _MOST_OBJECTS:
            return
        if isinstance(value, Tensor):
            if self._with_tensors:
                self._watch_tensor(value, path)
        elif isinstance(value, nn.Module):
            # One that hides in a list, as a teacher does, with all that is in it.
            for name, module in value.named_modules():
                self._watch_module(module, f"{path}.{name}" if name else path)
        elif isinstance(value, (*_COLLECTIONS, tuple)):
            self._watch_collection(value, path)
        elif isinstance(value, np.ndarray):
            self._seen[id(value)] = value
            if value.nbytes <= _LARGEST_TENSOR and value.flags.writeable and not value.dtype.hasobject:
                self._undo.append(partial(np.copyto, value, value.copy()))
        elif isinstance(value, (torch.Generator, np.random.Generator, random.Random)):
            self._watch_generator(value)
        elif isinstance(value, _FUNCTIONS):
            self._watch_function(value, path)
        else:
            self._watch_object(value, path)

    def _watch_object(self, value: Any, path: str) -> None:
        self._seen[id(value)] = value
        attributes, slots = user_attributes(value), user_slots(value)
        if slots:
            found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
            self._undo.append(partial(restore_slots, value, slots, found))
            for name, entry in found.items():
                self._watch(entry, f"{path}.{name}")
        if attributes is not None:
            self._watch_names(attributes, path)
        if attributes is not None or slots:
            self._watch_class(type(value), path, with_methods=True)

    def _watch_class(self, kind: type, path: str, *, with_methods: bool = False) -> None:
        """Record data that belong to a class of the user and so to all of its instances; and what its methods reach."""
        for each in user_classes(kind):
            if id(each) not in self._seen:
                self._seen[id(each)] = each
                found = {name: value for name, value in vars(each).items() if is_kept(name, value)}
                self._undo.append(partial(restore_class, each, found))
                for name, value in found.items():
                    self._watch(value, f"{path}.{name}")
        for function in methods(kind) if with_methods else ():
            self._watch_function(function, path)

    def _watch_collection(self, value: Any, path: str) -> None:
        self._seen[id(value)] = value
        if not isinstance(value, tuple):
            # Not of the collection's own kind, whose constructor may want more.
            kept = dict(value) if isinstance(value, dict) else set(value) if isinstance(value, set) else list(value)
            self._undo.append(partial(restore_collection, value, kept))
        if len(value) <= _MOST_ENTRIES:
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            for key, entry in list(entries):
                self._watch(entry, f"{path}[{key!r}]" if isinstance(key, (int, str)) else path)

    def _watch_tensor(self, tensor: Tensor, path: str) -> Tensor | None:
        """Record the values of a tensor that a pass might write into, and return them; not of one that belongs to a graph."""
        if id(tensor) in self._seen or type(tensor) not in (Tensor, nn.Parameter) or tensor.requires_grad:
            return None
        self._seen[id(tensor)] = tensor
        if tensor.is_meta or tensor.is_inference() or tensor.layout != torch.strided:
            return None
        # An expanded tensor cannot be written into, and one that FSDP has put away holds nothing.
        overlapping = any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
        if overlapping or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            return None
        if tensor.numel() * tensor.element_size() > _LARGEST_TENSOR:
            self._undo.append(partial(warn_if_changed, tensor, tensor._version, path))
            return None
        values = tensor.detach().clone()
        self._undo.append(partial(restore_tensor, tensor, values))
        return values

    def _watch_generator(self, generator: torch.Generator | np.random.Generator | random.Random) -> None:
        self._seen[id(generator)] = generator
        if not self._with_tensors:
            return
        if isinstance(generator, torch.Generator):
            self._undo.append(partial(generator.set_state, generator.get_state()))
        elif isinstance(generator, random.Random):
            self._undo.append(partial(generator.setstate, generator.getstate()))
        else:
            bits = generator.bit_generator
            self._undo.append(partial(setattr, bits, "state", bits.state))

    def _watch_function(self, function: Any, path: str) -> None:
        """Record what a hook of the user keeps: in its closure, its defaults, globals, or the object that it belongs to."""
        if function is None or id(function) in self._seen or not is_user_code(function):
            return
        if not isinstance(function, _FUNCTIONS):
            self._watch(function, path)
            return
        self._seen[id(function)] = function
        if isinstance(function, FunctionType):
            self._watch_names(function.__dict__, path)
        found = captured(function)
        for cell, content in found.cells:
            self._undo.append(partial(setattr, cell, "cell_contents", content))
        for names, kept in found.names:
            self._undo.append(partial(restore_names, names, kept, None))
        for value in found.values:
            # A class that is named: its methods may be called; those of a module by forward alone, once it is made.
            if isinstance(value, type):
                self._watch_class(value, path, with_methods=not issubclass(value, nn.Module))
            else:
                self._watch(value, path)

    @torch.no_grad()
    def restore(self) -> None:
        """Restore everything."""
        self._frozen.conclude()
        for undo in self._undo:
            undo()
