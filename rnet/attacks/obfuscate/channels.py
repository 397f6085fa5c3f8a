"""Finds the groups of channels of a network: it is traced with torch.fx and run once, and each value keeps a layout.

A layout says which axis of a value counts channels and which groups they belong to. What is not known here fixes the
groups that go into it, so that an operation this file has never heard of costs groups, never correctness.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm.layers
import torch
from torch import Tensor, fx, nn

from rnet.attacks.obfuscate.groups import Group, Place
from rnet.attacks.obfuscate.layouts import (
    ELEMENTWISE,
    HOMOGENEOUS,
    MOVES,
    POOLS,
    PRODUCTS,
    SHAPES,
    SUMS,
    Layout,
    entries,
    moved,
)
from rnet.errors import UserError, first_line


def find_groups(model: nn.Module, example_BCHW: Tensor, *, scaling: bool) -> list[Group]:
    """The groups of an eval-mode model on the CPU; scaling: of channels that may be multiplied, else permuted.

    Raises UserError for a model that torch.fx cannot trace.
    """
    try:
        module = fx.GraphModule(model, _Tracer(param_shapes_constant=True).trace(model))
    except Exception as error:  # whatever a model's code does with a stand-in for a tensor
        raise UserError(
            f"{type(model).__name__} cannot be traced by torch.fx ({first_line(error)}), so nothing of its "
            "channels can be proved; use another attack"
        ) from error
    walk = _Walk(module, scaling)
    with torch.no_grad():
        walk.run(example_BCHW)
    return walk.groups


class _Tracer(fx.Tracer):
    """Modules without children are single calls, and so is attention."""

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Further arguments of forward() keep their defaults."""
        return self.root.forward, [self.create_proxy("placeholder", "x", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children()) or isinstance(m, nn.MultiheadAttention) or _is_timm_attention(m)


def _is_timm_attention(m: nn.Module) -> bool:
    """timm's plain self-attention: one projection to queries, keys and values, nothing between."""
    plain = (nn.Identity, nn.Dropout)
    return (
        type(m).__name__ == "Attention"
        and type(m).__module__.startswith("timm.")
        and all(isinstance(getattr(m, name, None), nn.Linear) for name in ("qkv", "proj"))
        and all(isinstance(c, plain) for name, c in m.named_children() if name not in ("qkv", "proj"))
    )


class _Walk(fx.Interpreter):
    """Runs the graph; layouts: of each node's value, None where its channels must stay."""

    def __init__(self, module: fx.GraphModule, scaling: bool) -> None:
        super().__init__(module)
        self.scaling = scaling
        self.groups: list[Group] = []
        self.layouts: dict[fx.Node, Layout | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.layouts[n] = None
        layout = self._layout(n, result)
        if layout is not None and isinstance(result, Tensor) and entries(layout) != result.shape[layout.axis]:
            self._fix(layout)
            layout = None
        self.layouts[n] = layout
        return result

    # --- groups

    def _new(self, size: int) -> Group:
        self.groups.append(Group(size))
        return self.groups[-1]

    def _fix(self, *layouts: Layout | None) -> None:
        for layout in layouts:
            for group, _ in layout.segments if layout else ():
                group.root().fixed = True

    def _merge(self, first: Layout | None, second: Layout | None) -> Layout | None:
        """Of two values that are added: their channels become the same ones."""
        if first is None or second is None or first.axis != second.axis:
            self._fix(first, second)
            return None
        shapes = [[(group.size, repeat) for group, repeat in layout.segments] for layout in (first, second)]
        if shapes[0] != shapes[1]:
            self._fix(first, second)
            return None
        for (one, _), (other, _) in zip(first.segments, second.segments, strict=True):
            one.merge(other)
        return first

    def _written(self, axis: int, size: int, weights: list[tuple[Tensor | None, int]]) -> Layout:
        """Channels made by weights, along an axis of each of them."""
        group = self._new(size)
        group.places += [Place(tensor=w, axis=a, start=0, repeat=1, writes=True) for w, a in weights if w is not None]
        return Layout(axis, ((group, 1),))

    def _placed(self, layout: Layout | None, tensor: Tensor | None, axis: int, **kind: bool) -> None:
        """Notes that a weight has the channels of a layout along an axis."""
        start = 0
        for group, repeat in layout.segments if layout and tensor is not None else ():
            group.root().places.append(Place(tensor=tensor, axis=axis, start=start, repeat=repeat, **kind))  # type: ignore[arg-type]
            start += group.size * repeat

    # --- operations

    def _layout(self, n: fx.Node, result: Any) -> Layout | None:
        layouts = [self.layouts[used] for used in n.all_input_nodes]
        if n.op == "placeholder":
            return None
        if n.op == "get_attr":
            return self._of_parameter(result)
        if n.op == "output":
            self._fix(*layouts)
            return None
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if module is not None and len(n.all_input_nodes) == 1:
            rule = _MODULES.get(type(module))
            if rule is not None:
                return rule(self, module, args[0], layouts[0])
            if type(module) is nn.MultiheadAttention and module.in_proj_weight is not None and module.bias_k is None:
                qkv = (module.in_proj_weight, module.in_proj_bias)
                return self._attention(*qkv, module.out_proj, module.num_heads, layouts[0])
            if _is_timm_attention(module):
                return self._attention(module.qkv.weight, module.qkv.bias, module.proj, module.num_heads, layouts[0])
        name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
        name = type(module).__name__ if module is not None else name
        call = module if module is not None else n.target
        if not isinstance(result, Tensor) and name in SHAPES:
            return None
        found = self._of_operation(name, call, n, args, kwargs, layouts, result)
        if found is None:
            self._fix(*layouts)
        return found

    def _of_parameter(self, value: Any) -> Layout | None:
        """A parameter that a forward() reads itself, such as a class token: its only long axis, or the last."""
        if not isinstance(value, nn.Parameter) or value.dim() == 0:
            return None
        long = [axis for axis, size in enumerate(value.shape) if size > 1]
        axis = long[0] if len(long) == 1 else value.dim() - 1
        return self._written(axis, value.shape[axis], [(value, axis)])

    def _of_operation(
        self, name: str, call: Any, n: fx.Node, args: Any, kwargs: Any, layouts: list[Layout | None], result: Any
    ) -> Layout | None:
        """The layout of what an operation returns; None fixes what went into it."""
        first = layouts[0] if layouts else None
        if not any(layouts):
            return None
        if name == "getitem" and isinstance(args[0], tuple):  # attention returns its output first
            return first
        if not isinstance(result, Tensor):
            return None
        if name in SUMS or (name in PRODUCTS and not self.scaling):
            return self._combined(n, args, result)
        if name in ("cat", "concat"):
            return self._concatenated(n, args, kwargs, result)
        if sum(layout is not None for layout in layouts) > 1 or first is None or not isinstance(args[0], Tensor):
            return None
        if name in HOMOGENEOUS or (name in ELEMENTWISE and not self.scaling):
            return first
        if name in POOLS:
            return first if first.axis == 1 else None
        if name in MOVES:

            def again(numbers: Tensor) -> Tensor:
                operation = getattr(numbers, call) if isinstance(call, str) else call
                given = args[1:] if isinstance(call, str) else (numbers, *args[1:])
                return operation(*given, **kwargs)

            return moved(first, args[0], again)
        return None

    def _combined(self, n: fx.Node, args: Any, result: Tensor) -> Layout | None:
        """Of a sum or product of two values that broadcast."""
        shown: list[Layout | None] = []
        for used, value in zip(n.args[:2], args[:2], strict=True):
            layout = self.layouts[used] if isinstance(used, fx.Node) else None
            if not isinstance(value, Tensor) or value.numel() == 1:
                if self.scaling:  # x + 1 shifts what a rescaling multiplies
                    return None
                continue
            shift = result.dim() - value.dim()
            shown.append(Layout(layout.axis + shift, layout.segments) if layout else None)
        if not shown:
            return None
        return shown[0] if len(shown) == 1 else self._merge(*shown)

    def _concatenated(self, n: fx.Node, args: Any, kwargs: Any, result: Tensor) -> Layout | None:
        axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % result.dim()
        given = n.args[0]
        if not isinstance(given, list | tuple) or len(given) != len(args[0]):
            return None
        parts = [self.layouts[node] if isinstance(node, fx.Node) else None for node in given]
        along = {layout.axis == axis for layout in parts if layout}
        if along != {True}:  # tokens are put in a row: all have the same channels
            merged = parts[0]
            for part in parts[1:]:
                merged = self._merge(merged, part)
            return merged
        segments: list[tuple[Group, int]] = []
        for layout, value in zip(parts, args[0], strict=True):
            if layout is None:
                stays = self._new(value.shape[axis])
                stays.fixed = True
                layout = Layout(axis, ((stays, 1),))
            segments += layout.segments
        return Layout(axis, tuple(segments))

    # --- modules

    def _convolution(self, conv: Any, x: Tensor, layout: Layout | None) -> Layout | None:
        if conv.groups == 1:
            self._placed(layout, conv.weight, 1, writes=False)
            return self._written(1, conv.out_channels, [(conv.weight, 0), (conv.bias, 0)])
        if conv.groups == conv.in_channels == conv.out_channels:
            self._placed(layout, conv.weight, 0, writes=True, scales=False)
            self._placed(layout, conv.bias, 0, writes=True)
            return layout
        self._fix(layout)
        return None

    def _linear(self, linear: nn.Linear, x: Tensor, layout: Layout | None) -> Layout | None:
        if layout is not None and layout.axis != x.dim() - 1:
            self._fix(layout)
            layout = None
        self._placed(layout, linear.weight, 1, writes=False)
        return self._written(x.dim() - 1, linear.out_features, [(linear.weight, 0), (linear.bias, 0)])

    def _norm(self, norm: Any, x: Tensor, layout: Layout | None) -> Layout | None:
        """A norm keeps the order of channels; their scale it takes away, and its weights make a new one."""
        axis = x.dim() - 1 if isinstance(norm, nn.LayerNorm) else 1
        own = [norm.weight, norm.bias]
        if layout is not None and layout.axis != axis:
            self._fix(layout)
            return None
        if isinstance(norm, nn.LayerNorm) and len(norm.normalized_shape) != 1:
            self._fix(layout)
            return None
        if self.scaling:
            self._fix(layout)
            size = x.shape[axis]
            return self._written(axis, size, [(w, 0) for w in own]) if norm.weight is not None else None
        for tensor in (*own, getattr(norm, "running_mean", None), getattr(norm, "running_var", None)):
            self._placed(layout, tensor, 0, writes=True)
        return layout

    def _attention(
        self, weight: Tensor, bias: Tensor | None, proj: nn.Linear, heads: int, layout: Layout | None
    ) -> Layout | None:
        """Reads tokens, has heads of its own, writes tokens. weight (3E, E), bias: of queries, keys and values."""
        if layout is not None and layout.axis != 2:
            self._fix(layout)
            layout = None
        self._placed(layout, weight, 1, writes=False)
        if not self.scaling:
            group, width = self._new(heads), len(weight) // 3
            for start in (0, width, 2 * width):
                for tensor in (weight, bias) if bias is not None else (weight,):
                    place = Place(tensor=tensor, axis=0, start=start, repeat=width // heads, writes=True)
                    group.places.append(place)
            reader = Place(tensor=proj.weight, axis=1, start=0, repeat=width // heads, writes=False)
            group.places.append(reader)
        return self._written(2, proj.out_features, [(proj.weight, 0), (proj.bias, 0)])


_MODULES: dict[type, Callable[..., Layout | None]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _Walk._convolution),
    **dict.fromkeys((nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear), _Walk._linear),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, timm.layers.LayerNorm), _Walk._norm),
}
"""By exact type: a subclass may do more."""
