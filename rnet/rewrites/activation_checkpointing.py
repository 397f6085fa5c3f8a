"""Activation checkpointing: blocks of a model keep only their input, and compute the rest again for the backward pass.

Costs about one more forward pass and saves the memory of all activations inside blocks (Chen et al. 2016). Gradients,
buffers and random draws are those of the ordinary model, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rnet.rewrites.forwards import has_own_forward, replace_forward, restore_forward

_MIN_LAYERS_TO_GROUP = 4
_PLAIN = (Tensor, bool, int, float, str, type(None))


def checkpoint_activations(model: nn.Module) -> list[str]:
    """Makes the blocks of a model recompute their activations in the backward pass; returns the blocks' names.

    A block is a child of a Sequential or ModuleList with at least two layers that have a weight matrix or kernel, such
    as a residual or transformer block; one that holds several blocks, such as a stage, gives way to them. A Sequential
    of four or more single layers (VGG's features) is cut into groups, after pooling layers; its own name is returned.
    A model without either stays as it is: the list is empty.

    Only the forward attribute of the blocks changes: names, parameters and state dicts do not. Blocks recompute in
    train mode with gradients enabled, if all arguments are tensors or plain constants; otherwise they run as they
    always did, as they do where a SplitModel is cut inside them. Call it before an engine shards parameters, whose
    shapes tell layers from norms. A block must not write into its input (backward() raises if it does), and
    torch.compile refuses the blocks.
    """
    keep_activations(model)
    blocks = {name: block for name, block in _blocks(model) if not has_own_forward(block)}
    for block in blocks.values():
        replace_forward(block, _grouped_forward if _is_flat(block) else _block_forward)
    return list(blocks)


def keep_activations(model: nn.Module) -> None:
    """Undoes checkpoint_activations."""
    restore_forward(model, _block_forward, _grouped_forward)


# --- what a block's forward() becomes --------------------------------------------------------------------------------


def _block_forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(self).forward, self)
    if not _recomputes(self, *args, *kwargs.values()):
        return forward(*args, **kwargs)
    return _recomputed(forward, [self], *args, **kwargs)


def _grouped_forward(self: nn.Sequential, x: Any) -> Any:
    if not _recomputes(self, x):
        return nn.Sequential.forward(self, x)
    for layers in _groups(self):
        x = _recomputed(nn.Sequential(*layers).forward, layers, x)
    return x


def _recomputes(module: nn.Module, *values: Any) -> bool:
    """Not for a stand-in of torch.fx, which a tracing SplitModel passes, nor for a list, which may change meanwhile."""
    return module.training and torch.is_grad_enabled() and all(isinstance(value, _PLAIN) for value in values)


def _recomputed(forward: Callable[..., Any], modules: list[nn.Module], *args: Any, **kwargs: Any) -> Any:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _buffers_kept(modules)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _buffers_kept(modules: list[nn.Module]) -> Iterator[None]:
    """Within, the modules read and write copies of their buffers: running statistics are not counted twice.

    (Switching track_running_stats off instead would change which tensors batch norm saves, which torch refuses.)
    """
    owners = [owner for module in modules for owner in module.modules()]
    kept = [(owner, dict(owner.named_buffers(recurse=False))) for owner in owners]
    for owner, buffers in kept:
        for name, buffer in buffers.items():
            setattr(owner, name, buffer.clone())
    try:
        yield
    finally:
        for owner, buffers in kept:
            for name, buffer in buffers.items():
                setattr(owner, name, buffer)


# --- which modules are blocks ----------------------------------------------------------------------------------------


def _blocks(module: nn.Module, name: str = "", in_container: bool = False) -> list[tuple[str, nn.Module]]:
    """Blocks in and below a module, never one inside another."""
    is_container = isinstance(module, (nn.Sequential, nn.ModuleList))
    inner = [
        block
        for child_name, child in module.named_children()
        for block in _blocks(child, f"{name}.{child_name}".lstrip("."), is_container)
    ]
    if in_container and len(inner) < 2 and _num_layers(module) > 1 and not _is_flat(module):
        return [(name, module)]
    return inner or ([(name, module)] if _is_flat(module) else [])


def _num_layers(module: nn.Module) -> int:
    """How many modules own a matrix or kernel; norms own vectors."""
    return sum(any(p.dim() > 1 for p in m.parameters(recurse=False)) for m in module.modules())


def _is_flat(module: nn.Module) -> bool:
    """Whether it is a Sequential of enough single layers to be cut into groups."""
    return (
        type(module).forward is nn.Sequential.forward
        and _num_layers(module) >= _MIN_LAYERS_TO_GROUP
        and all(_num_layers(child) <= 1 for child in module.children())
    )


def _groups(sequential: nn.Sequential) -> list[list[nn.Module]]:
    """Its layers in groups that end after pooling, or after about sqrt(n) of its n layers with weights.

    Each group but the first starts with such a layer: unlike an activation, it never writes into its input.
    """
    limit = math.ceil(math.sqrt(_num_layers(sequential)))
    groups: list[list[nn.Module]] = [[]]
    weighted, pooled = 0, False
    for layer in sequential:
        if _num_layers(layer):
            if weighted and (pooled or weighted == limit):
                groups.append([])
                weighted, pooled = 0, False
            weighted += 1
        pooled |= "Pool" in type(layer).__name__
        groups[-1].append(layer)
    return groups
