"""A pool that only repeats one position, folded into the linear layer that reads the copies (VGG on small images).

VGG's classifier reads 7 x 7 positions per channel; of 32 px images one position is left, which its adaptive pool
repeats 49 times. The layer then multiplies 49 equal inputs: the sum of their weights multiplies one.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from rnet.rewrites.forwards import has_own_forward, replace_forward


class PooledLinear(nn.Linear):
    """A frozen Linear of (B, C) that stands for `source`, which reads every channel S times in a row; see refresh()."""

    def __init__(self, source: nn.Linear, channels: int) -> None:
        weight = source.weight
        super().__init__(
            channels, source.out_features, source.bias is not None, device=weight.device, dtype=weight.dtype
        )
        self.requires_grad_(False)

    @torch.no_grad()
    def refresh(self, source: nn.Module) -> None:
        """Takes over the present weights of the layer that it stands for."""
        assert isinstance(source, nn.Linear)
        self.weight.copy_(_summed(source.weight, self.in_features))
        if source.bias is not None:
            self.bias.copy_(source.bias)


def fold_pools(model: nn.Module, cut: str, example_BCHW: Tensor) -> list[tuple[str, PooledLinear]]:
    """Replaces in a frozen eval-mode model, after its layer `cut`, pools that only repeat one position; the linear
    layers that read them, by name, each of which needs a refresh() before it is right.

    example_BCHW: images of the size to come. The same function up to rounding.
    """
    found = _pooled_linears(model, cut)
    sizes = _input_sizes(model, [pool for pool, _, _ in found], example_BCHW)
    folded = []
    for pool, linear, positions in found:
        source = model.get_submodule(linear)
        assert isinstance(source, nn.Linear)
        if sizes.get(pool) != (1, 1) or source.in_features % positions:
            continue
        own = PooledLinear(source, source.in_features // positions)
        model.set_submodule(pool, nn.Identity())
        model.set_submodule(linear, own)
        folded.append((linear, own))
    return folded


def read_repeated_once(model: nn.Module, cut: str) -> int:
    """Lets linear layers after the layer `cut` read once a position that a pool would repeat for them; how many.

    For training: weights, names and state dicts stay as they are, and a map of several positions is pooled as before.
    The same function and gradients up to rounding.
    """
    modes, found = [(module, module.training) for module in model.modules()], []
    try:
        for training in (True, False):
            for module, _ in modes:
                module.training = training
            found.append(_pooled_linears(model, cut, skipped=(nn.Identity,)))  # dropout draws for each copy
    finally:
        for module, training in modes:
            module.training = training
    pairs = [(model.get_submodule(pool), model.get_submodule(linear)) for pool, linear, _ in {*found[0]} & {*found[1]}]
    unseen = [(pool, linear) for pool, linear in pairs if not _is_watched(pool) and not _is_watched(linear)]
    for pool, linear in unseen:
        replace_forward(pool, _leave_one_position)
        replace_forward(linear, _read_once)
    return len(unseen)


def _is_watched(module: nn.Module) -> bool:
    """Whether somebody computes otherwise, or would see what the pool and the layer give each other."""
    return has_own_forward(module) or bool(module._forward_hooks or module._forward_pre_hooks)


def _leave_one_position(self: nn.AdaptiveAvgPool2d, x_BCHW: Tensor) -> Tensor:
    """What the forward of a pool becomes."""
    return x_BCHW if x_BCHW.shape[2:] == (1, 1) else type(self).forward(self, x_BCHW)


def _read_once(self: nn.Linear, x_BF: Tensor) -> Tensor:
    """What the forward of the layer becomes: x is one position, (B, C), or as many as the layer reads."""
    channels = x_BF.shape[-1]
    if channels == self.in_features or self.in_features % channels:
        return type(self).forward(self, x_BF)
    return F.linear(x_BF, _summed(self.weight, channels), self.bias)


FORWARDS = (_leave_one_position, _read_once)
"""What read_repeated_once puts in."""


def _summed(weight_KF: Tensor, channels: int) -> Tensor:
    """(K, C), of equal inputs' weights, in their type. A product, because torch sums short rows slowly on CUDA."""
    copies = weight_KF.reshape(len(weight_KF) * channels, -1)
    with torch.autocast(weight_KF.device.type, enabled=False):
        return copies.mv(copies.new_ones(copies.shape[1])).view(-1, channels)


def _pooled_linears(
    model: nn.Module, cut: str, skipped: tuple[type[nn.Module], ...] = (nn.Identity, nn.Dropout)
) -> list[tuple[str, str, int]]:
    """(pool, linear layer, positions) for each adaptive pool after the cut whose output only that layer reads, flat.

    skipped: what may stand before the layer.
    """
    if not any(_positions(module) > 1 for module in model.modules()):
        return []
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # user code under a tracer may raise anything
        return []
    nodes = list(graph.nodes)
    calls = [str(node.target) for node in nodes if node.op == "call_module"]
    inside = [i for i, node in enumerate(nodes) if node.op == "call_module" and f"{node.target}.".startswith(f"{cut}.")]
    found = []
    for node in nodes[inside[-1] + 1 :] if inside else []:
        positions, flat = _positions(_module(model, node)), _only_user(node)
        if positions == 1 or calls.count(str(node.target)) > 1 or not _flattens(model, flat):
            continue
        reader = _only_user(flat)
        while isinstance(_module(model, reader), skipped):
            reader = _only_user(reader)
        if type(_module(model, reader)) is nn.Linear and calls.count(str(reader.target)) == 1:  # type: ignore[union-attr]
            found.append((str(node.target), str(reader.target), positions))  # type: ignore[union-attr]
    return found


def _positions(module: nn.Module | None) -> int:
    """How many positions an adaptive pool always gives; 1 for anything else."""
    if type(module) is not nn.AdaptiveAvgPool2d:
        return 1
    height, width = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * 2
    return height * width if height and width else 1


def _module(model: nn.Module, node: fx.Node | None) -> nn.Module | None:
    return model.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


def _only_user(node: fx.Node | None) -> fx.Node | None:
    return next(iter(node.users)) if node is not None and len(node.users) == 1 else None


def _flattens(model: nn.Module, node: fx.Node | None) -> bool:
    """Whether the node makes (B, C, H, W) flat from axis 1 on."""
    if node is None:
        return False
    module = _module(model, node)
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1 and module.end_dim == -1
    named = node.target is torch.flatten if node.op == "call_function" else node.target == "flatten"
    return named and node.op != "call_module" and (*node.args[1:], *node.kwargs.values()) == (1,)


def _input_sizes(model: nn.Module, names: list[str], example_BCHW: Tensor) -> dict[str, tuple[int, int]]:
    """Height and width of what each module is given."""
    sizes: dict[str, tuple[int, int]] = {}

    def note(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sizes[name] = (inputs[0].shape[-2], inputs[0].shape[-1])

        return hook

    if not names:
        return sizes
    hooks = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]  # type: ignore[arg-type]
    try:
        with torch.no_grad():
            model(example_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return sizes
