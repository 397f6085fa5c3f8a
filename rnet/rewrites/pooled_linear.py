"""A pool that only repeats one position, folded into the linear layer that reads the copies (VGG on small images).

VGG's classifier reads 7 x 7 positions per channel; of 32 px images one position is left, which its adaptive pool
repeats 49 times. The layer then multiplies 49 equal inputs: the sum of their weights multiplies one.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn


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
        copies = source.weight.view(self.weight.numel(), -1)  # a product: torch's sums of short rows are slow on CUDA
        self.weight.copy_(copies.mv(copies.new_ones(copies.shape[1])).view_as(self.weight))
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


def _pooled_linears(model: nn.Module, cut: str) -> list[tuple[str, str, int]]:
    """(pool, linear layer, positions) for each adaptive pool after the cut whose output only that layer reads, flat."""
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # user code under a tracer may raise anything
        return []
    nodes = list(graph.nodes)
    calls = [str(node.target) for node in nodes if node.op == "call_module"]
    inside = [i for i, node in enumerate(nodes) if node.op == "call_module" and f"{node.target}.".startswith(f"{cut}.")]
    found = []
    for node in nodes[inside[-1] + 1 :] if inside else []:
        pool = _module(model, node)
        if type(pool) is not nn.AdaptiveAvgPool2d or calls.count(str(node.target)) > 1:
            continue
        height, width = pool.output_size if isinstance(pool.output_size, tuple) else (pool.output_size,) * 2
        flat = _only_user(node)
        if height is None or width is None or height * width == 1 or not _flattens(model, flat):
            continue
        reader = _only_user(flat)
        while isinstance(_module(model, reader), nn.Dropout | nn.Identity):
            reader = _only_user(reader)
        if type(_module(model, reader)) is nn.Linear and calls.count(str(reader.target)) == 1:  # type: ignore[union-attr]
            found.append((str(node.target), str(reader.target), height * width))  # type: ignore[union-attr]
    return found


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
