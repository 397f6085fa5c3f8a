"""Batch norm folded into the convolution before it: in eval mode the same function, with fewer passes over memory."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rnet.cutting.split import SplitModel
from rnet.rewrites.activation_checkpointing import keep_activations
from rnet.rewrites.batch_norm import use_local_batch_norm
from rnet.rewrites.in_training import train_as_torch
from rnet.rewrites.pooled_linear import fold_pools

M = TypeVar("M", bound=nn.Module)
_MULTIPLY = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)
"""Modules whose weights and biases go into matrix products, which an autocast computes in its type."""


def folded(model: M) -> M:
    """A frozen eval-mode copy of the model in which convolutions have taken over the batch norms after them.

    It computes what the model does in eval mode, up to rounding (Jacob et al. 2018, section 3.2), and keeps the names
    of all modules: a batch norm that was taken over is an Identity. What cannot be folded stays as it is, so a model
    without such pairs, or one that torch.fx cannot trace, is simply copied.
    """
    result = copy.deepcopy(model).eval().requires_grad_(False)
    for conv_name, norm_name in foldable_pairs(result):
        _fold(result, conv_name, norm_name)
    return result


class FoldedSplit:
    """A folded copy of a split model that follows its weights: `split` computes what the model does in eval mode.

    The copy is frozen, so calling it touches no gradient. Call refresh() whenever the model's weights or statistics
    have changed; what is neither folded nor held in another type is shared with the model and needs none. The model's
    parameters must be whole and stay where they are in memory, so build it once an engine has put them there.

    example_BCHW: images of the size to come. held: the type in which matrix weights are held (bfloat16 under an
    autocast to bfloat16, which then casts no weight in any call); None for the model's own.
    """

    def __init__(self, source: SplitModel, example_BCHW: Tensor, *, held: torch.dtype | None = None) -> None:
        model = copy.deepcopy(source.model).eval().requires_grad_(False)
        keep_activations(model)
        train_as_torch(model)
        use_local_batch_norm(model)  # in eval mode the same function, and one that can be folded
        inside = f"{source.cut}."
        pairs = [  # z must stay what it was: a convolution that ends the cut layer keeps the norm outside of it
            (conv, norm)
            for conv, norm in foldable_pairs(model)
            if norm.startswith(inside) or not f"{conv}.".startswith(inside)
        ]
        for conv_name, norm_name in pairs:
            _fold(model, conv_name, norm_name)
        self._followed: list[
            tuple[Any, Any, Any]
        ] = [  # convolution, batch norm, and the convolution that stands for them
            (source.model.get_submodule(conv), source.model.get_submodule(norm), model.get_submodule(conv))
            for conv, norm in pairs
        ]
        pooled = fold_pools(model, source.cut, example_BCHW)
        self._pooled = [(own, source.model.get_submodule(name)) for name, own in pooled]
        replaced = {name for pair in pairs for name in pair} | {name for name, _ in pooled}
        for name, module in source.model.named_modules():
            if name not in replaced:
                own = model.get_submodule(name)
                own._buffers = module._buffers
                for key, parameter in module._parameters.items():
                    if parameter is not None:
                        own._parameters[key] = nn.Parameter(parameter.detach(), requires_grad=False)
        self._held: list[tuple[Tensor, Tensor]] = []  # the copy's weight, and the model's
        if held is not None:
            self._hold(model, held, {id(own) for *_, own in self._followed} | {id(own) for _, own in pooled})
        self.split = SplitModel(model, source.layer, place=source.place).eval()

    def _hold(self, model: nn.Module, dtype: torch.dtype, refreshed: set[int]) -> None:
        """Replaces the matrix weights of the copy. refreshed: modules (by id) whose weights are written anyway."""
        uses = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
        for module in model.modules():
            if not isinstance(module, _MULTIPLY):
                continue
            for key, parameter in module._parameters.items():
                if parameter is None or parameter.dtype != torch.float32 or uses[id(parameter)] > 1:
                    continue
                own = nn.Parameter(parameter.to(dtype), requires_grad=False)
                if id(module) not in refreshed:
                    self._held.append((own, parameter))
                module._parameters[key] = own

    @property
    def count(self) -> int:
        """How many batch norms convolutions have taken over."""
        return len(self._followed)

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the model's present weights and statistics."""
        if self._followed:
            self._fold_again()
        for pooled, linear in self._pooled:
            pooled.refresh(linear)
        if self._held:
            torch._foreach_copy_([own for own, _ in self._held], [weight for _, weight in self._held])

    def _fold_again(self) -> None:
        """As torch's fuse_conv_bn_weights, bit by bit, for the channels of all convolutions at once."""
        convolutions, norms, owns = zip(*self._followed, strict=True)
        mean = torch.cat([norm.running_mean for norm in norms])
        ones, zeros = torch.ones_like(mean), torch.zeros_like(mean)
        sizes = [len(norm.running_mean) for norm in norms]

        def joined(values: Iterable[Tensor | None], otherwise: Tensor) -> Tensor:
            parts = zip(values, otherwise.split(sizes), strict=True)
            return torch.cat([part if value is None else value for value, part in parts])

        weight, bias = joined((norm.weight for norm in norms), ones), joined((norm.bias for norm in norms), zeros)
        deviation = torch.cat([norm.running_var for norm in norms])
        torch._foreach_add_(list(deviation.split(sizes)), [norm.eps for norm in norms])
        deviation.rsqrt_()
        before = joined((conv.bias for conv in convolutions), zeros)
        biases = before.sub_(mean).mul_(deviation).mul_(weight).add_(bias)
        for conv, own, scale in zip(convolutions, owns, weight.mul_(deviation).split(sizes), strict=True):
            torch.mul(conv.weight, scale.view(-1, 1, 1, 1), out=own.weight)
        torch._foreach_copy_([own.bias for own in owns], list(biases.split(sizes)))


def _fold(model: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        model.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
    model.set_submodule(norm_name, nn.Identity())


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
