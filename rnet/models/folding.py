"""Batch norm folded into the convolution before it: in eval mode the same function, with fewer passes over memory."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TypeVar

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


def folded(model: M) -> M:
    """A frozen eval-mode copy of the model in which convolutions have taken over the batch norms after them.

    It computes what the model does in eval mode, up to rounding (Jacob et al. 2018, section 3.2), and keeps the names
    of all modules: a batch norm that was taken over is an Identity. What cannot be folded stays as it is, so a model
    without such pairs, or one that torch.fx cannot trace, is simply copied.
    """
    result = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        for conv_name, norm_name in foldable_pairs(result):
            conv, norm = result.get_submodule(conv_name), result.get_submodule(norm_name)
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            result.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
            result.set_submodule(norm_name, nn.Identity())
    return result.requires_grad_(False)


def foldable_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of each Conv2d and the BatchNorm2d that alone uses its output; both are called once in a forward pass."""
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # user code under a tracer may raise anything
        return []
    modules = dict(model.named_modules())  # one name each, so a module that has two is never found twice
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(id(model.get_submodule(str(node.target))) for node in calls)
    pairs = []
    for node in calls:
        conv_node = node.args[0] if node.args else None
        if not isinstance(conv_node, fx.Node) or conv_node.op != "call_module" or len(conv_node.users) != 1:
            continue
        conv, norm = modules.get(str(conv_node.target)), modules.get(str(node.target))
        if conv is None or norm is None or not _takes_over(conv, norm) or max(times[id(conv)], times[id(norm)]) > 1:
            continue
        pairs.append((str(conv_node.target), str(node.target)))
    return pairs


def _takes_over(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether the two are what they seem: no subclass, no hook, no other owner of a parameter, fixed statistics."""
    return (
        type(conv) is nn.Conv2d
        and type(norm) is nn.BatchNorm2d
        and norm.running_mean is not None
        and not any(
            hooks for m in (conv, norm) for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)
        )
    )
