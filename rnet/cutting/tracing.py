"""How a model is cut: the forward passes around one layer become two functions, head and tail.

Only the forward() of the modules that enclose the layer is traced (torch.fx, Reed et al., MLSys 2022); all others stay
calls. The functions take the model as an argument and hold no reference to it. Used by split.py.
"""

from __future__ import annotations

import dis
import operator
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils._python_dispatch import _disable_current_modes

_AUGMENTED = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor")


@dataclass(eq=False, kw_only=True)
class Program:
    """head(model, x) and tail(model, z) for one combination of train and eval modes, with their source.

    reads: names of the parameters and buffers that they read from the model themselves. writes_z: does tail modify z?
    None until somebody has looked.
    """

    head: Callable[[nn.Module, Tensor], Any]
    tail: Callable[[nn.Module, Tensor], Any]
    head_source: str
    tail_source: str
    reads: frozenset[str]
    writes_z: bool | None = None


class CannotCut(Exception):
    """Why, and what to do instead; the caller says which layer of which model."""


def trace_program(model: nn.Module, cut: str, ancestors: list[nn.Module]) -> Program:
    """The program of a model in its present modes. ancestors: the modules around the one named `cut`, outermost first.

    Raises CannotCut if that is no place to cut.
    """
    graph, call = _trace(model, cut, ancestors)
    try:
        head, tail = _divide(graph, call)
    except _Crossing as crossing:
        raise CannotCut(f"{crossing}; {_remedy(model, cut, ancestors)}") from crossing
    reads = frozenset(str(node.target) for part in (head, tail) for node in part.nodes if node.op == "get_attr")
    head_function, head_source = _function(head)
    tail_function, tail_source = _function(tail)
    return Program(
        head=head_function, tail=tail_function, head_source=head_source, tail_source=tail_source, reads=reads
    )


# --- tracing ---------------------------------------------------------------------------------------------------------


def augmented(name: str, left: Any, right: Any) -> Any:
    """Augmented assignment as a function: augmented("iadd", x, y) is what `x += y` binds to x."""
    return getattr(operator, name)(left, right)


class _Proxy(fx.Proxy):
    """Records `x += y` as what it is, in place for tensors; fx itself would record x = x + y."""


def _recorded(name: str) -> Callable[[_Proxy, Any], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", augmented, (name, self, other), {})


for _name in _AUGMENTED:
    setattr(_Proxy, f"__{_name}__", _recorded(_name))


class _Tracer(fx.Tracer):
    """Traces the given modules; all others are single calls.

    Refuses what a trace would silently freeze or lose: tensors made on the way, gradient and autocast contexts.
    """

    def __init__(self, model: nn.Module, ancestors: Iterable[nn.Module]) -> None:
        super().__init__(param_shapes_constant=True)
        self.traced = {id(module) for module in ancestors}
        self.members = {id(module) for module in model.modules()}
        self.switches = _switches()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) not in self.traced

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if id(m) not in self.members:  # made on the spot, such as self.features[:5]
            return forward(*args, **kwargs)
        return super().call_module(m, m.forward, args, kwargs)  # not through its hooks

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """One placeholder: further arguments of forward() keep their defaults."""
        assert is_module
        return self.root.forward, [self.create_proxy("placeholder", "x", (), {})]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Buffers are read when the function runs, as parameters are."""
        if isinstance(attr_val, Tensor) and not isinstance(attr_val, nn.Parameter):
            for name, buffer in self.root.named_buffers():
                if attr_val is buffer:
                    if name not in parameter_proxy_cache:
                        parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
                    return parameter_proxy_cache[name]
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """An assert is kept, for every run; any other decision on a value is refused (fx.Tracer raises)."""
        line = _assertion(sys._getframe(2))  # whose code asked: below this method and Proxy.__bool__
        if line is None:
            return super().to_bool(obj)
        self.create_proxy("call_function", torch._assert, (obj, f"the assertion of {line} does not hold"), {})
        return True

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _switches() != self.switches:
            raise CannotCut(
                "a forward() around it switches gradients or autocast on or off; move that into a module of its own"
            )
        return super().create_node(*args, **kwargs)

    def get_fresh_qualname(self, prefix: str) -> str:
        """Called for a tensor that belongs to no module: it would be frozen at its first value and device."""
        raise CannotCut("a forward() around it makes a tensor of its own; make that a buffer, or use a submodule")


def _assertion(frame: FrameType) -> str | None:
    """The place of the assert statement whose condition the frame is testing; None if it is another statement."""
    following = (i for i in dis.get_instructions(frame.f_code) if i.offset >= frame.f_lasti)
    jump, raising, *_ = [i for i in following if i.opname not in ("COMPARE_OP", "TO_BOOL", "NOT_TAKEN")]
    if not (jump.opname.startswith("POP_JUMP") and jump.opname.endswith("IF_TRUE")):
        return None
    if raising.opname != "LOAD_ASSERTION_ERROR" and raising.argrepr != "AssertionError":  # to Python 3.13, and after
        return None
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}"


def _switches() -> tuple[bool, ...]:
    """What `with` blocks switch; a trace does not record it."""
    return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


def _trace(model: nn.Module, cut: str, ancestors: list[nn.Module]) -> tuple[fx.Graph, fx.Node]:
    """One forward pass as a graph of calls, in order, and the only call of the cut layer. The model stays as it was."""
    if type(model.get_submodule(cut)) in (nn.ModuleList, nn.ModuleDict):
        raise CannotCut("it only holds other modules; choose one of those")
    tracer = _Tracer(model, ancestors)
    attributes = [dict(vars(module)) for module in ancestors]
    random_states = _random_states()
    try:
        graph = tracer.trace(model)
    except CannotCut:
        raise
    except Exception as error:  # whatever the model's code does with a stand-in for a tensor
        inside = _short(next(reversed(tracer.module_stack.values()), ("", None))[0])
        owner = repr(inside) if inside else "the model itself"
        rather = f"choose {inside!r} or a layer outside of it" if inside else "free its forward() of that"
        raise CannotCut(
            f"the forward() of {owner} cannot be followed symbolically: {error} ({_line_of(error)}); {rather}"
        ) from error
    finally:
        for module, before in zip(ancestors, attributes, strict=True):
            vars(module).clear()
            vars(module).update(before)
    if _random_states() != random_states:
        raise CannotCut("a forward() around it draws random numbers of its own; move that into a submodule")
    for node in reversed(graph.nodes):
        if not node.users and _is_lookup(node):
            graph.erase_node(node)
        elif node.target is torch._assert:  # its message was formatted with stand-ins
            node.args = tuple(re.sub(r"Proxy\(\w+\)", "another", a) if isinstance(a, str) else a for a in node.args)
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == cut]
    if len(calls) != 1:
        times = f"called {len(calls)} times" if calls else "never called by itself"
        raise CannotCut(f"it is {times} in a forward pass; choose a layer that is called once, inside or around it")
    return graph, calls[0]


def _random_states() -> tuple[object, bytes]:
    with _disable_current_modes():  # a state is numbers, also where other tensors are shapes only
        return random.getstate(), torch.get_rng_state().numpy().tobytes()


def _is_lookup(node: fx.Node) -> bool:
    """Whether the node only reads: a weight, an attribute, an item or a shape."""
    return (
        node.op == "get_attr"
        or (node.op == "call_function" and node.target in (getattr, operator.getitem))
        or (node.op == "call_method" and node.target in ("size", "dim"))
    )


def _line_of(error: BaseException) -> str:
    """Where in the model's own code the error came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if "/torch/" not in frame.filename.replace("\\", "/")]
    frame = (own or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"


# --- dividing --------------------------------------------------------------------------------------------------------


class _Crossing(Exception):
    """A value other than z is computed before the cut and used after it; says which, and where."""


def _divide(graph: fx.Graph, call: fx.Node) -> tuple[fx.Graph, fx.Graph]:
    """The graphs of x -> z and z -> output. Raises _Crossing."""
    nodes = list(graph.nodes)
    before, after = nodes[: nodes.index(call) + 1], nodes[nodes.index(call) + 1 :]
    head = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in before:
        copies[node] = _copy(node, head, copies.__getitem__)
    head.output(copies[call])

    tail = fx.Graph()
    known = {call: tail.placeholder("z")}

    def value(node: fx.Node) -> fx.Node:
        if node not in known:
            if not _reads_weights_only(node):
                raise _Crossing(f"{_expression(node)} is used after it")
            known[node] = _copy(node, tail, value)  # a weight can be read again
        return known[node]

    for node in after:
        known[node] = _copy(node, tail, value)
    return head, tail


def _reads_weights_only(node: fx.Node) -> bool:
    return _is_lookup(node) and all(_reads_weights_only(used) for used in node.all_input_nodes)


def _copy(node: fx.Node, graph: fx.Graph, value: Callable[[fx.Node], fx.Node]) -> fx.Node:
    """The node at the end of another graph, without annotations."""
    if node.op == "output":
        return graph.output(map_arg(node.args[0], value))
    copy = graph.node_copy(node, value)
    copy.meta, copy.type = {}, None
    return copy


def _function(graph: fx.Graph) -> tuple[Callable[[nn.Module, Tensor], Any], str]:
    """The graph as a function of the model and a tensor, and its source."""
    code = graph.python_code(root_module="self")
    namespace = dict(code.globals)
    exec(compile(code.src, "<SplitModel>", "exec"), namespace)
    return namespace["forward"], code.src.strip()


# --- messages --------------------------------------------------------------------------------------------------------


def _short(name: str) -> str:
    """The name as the user of a Classifier knows it."""
    return "" if name == "backbone" else name.removeprefix("backbone.")


def _remedy(model: nn.Module, cut: str, ancestors: list[nn.Module]) -> str:
    """Names the innermost module around the cut after which the model can be cut."""
    names = cut.split(".")
    for depth in range(len(names) - 1, 0, -1):
        around = ".".join(names[:depth])
        try:
            _divide(*_trace(model, around, ancestors[:depth]))
        except (CannotCut, _Crossing):
            continue
        if _short(around):
            return f"cut after the module around it, {_short(around)!r}"
    return "choose a layer through which everything passes"


def _expression(node: fx.Node) -> str:
    """A value as one would write it in a forward()."""
    if node.op == "placeholder":
        return "the input x"
    if node.op == "call_module":
        return f"the output of {_short(str(node.target))!r}"
    if node.op == "get_attr":
        return _short(str(node.target))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    operands = [_expression(used) for used in node.all_input_nodes]
    if node.target is getattr:
        return f"{node.args[1]} of {operands[0]}"
    if node.target is operator.getitem:
        return f"item {node.args[1]} of {operands[0]}"
    return f"{name} of {' and '.join(operands)}" if operands else f"the value of {name}()"
