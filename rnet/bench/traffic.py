"""What the processes of a step send to each other, counted at the process group whoever calls it.

DDP's reducer and DeepSpeed reach the group from C++ and from hooks, so that their Python functions do not show it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# How much of the payload, in its own size, one of n processes sends with the ring algorithms of NCCL and gloo.
_SENT = {
    "all_reduce": lambda n: 2 * (n - 1) / n, "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n, "broadcast": lambda n: (n - 1) / n,
}  # fmt: skip
# The operators of torch's process groups: which collective they are, and which argument holds the whole payload.
_OPERATORS = {
    "allreduce_": ("all_reduce", 0), "allreduce_coalesced_": ("all_reduce", 0), "allgather_": ("all_gather", 0),
    "_allgather_base_": ("all_gather", 0), "allgather_coalesced_": ("all_gather", 0),
    "allgather_into_tensor_coalesced_": ("all_gather", 0), "reduce_scatter_": ("reduce_scatter", 1),
    "_reduce_scatter_base_": ("reduce_scatter", 1), "reduce_scatter_tensor_coalesced_": ("reduce_scatter", 1),
    "broadcast_": ("broadcast", 0),
}  # fmt: skip


class Traffic(TorchDispatchMode):
    """Within the block: calls and payload bytes of each collective. The payload of a gather is all that is gathered."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}
        self.payload: dict[str, int] = {}

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operator.namespace == "c10d" and (found := _OPERATORS.get(operator._schema.name.removeprefix("c10d::"))):
            name, place = found
            self.calls[name] = self.calls.get(name, 0) + 1
            self.payload[name] = self.payload.get(name, 0) + sum(_bytes(args[place]))
        return operator(*args, **(kwargs or {}))

    def sent(self, processes: int) -> float:
        """Bytes that one of so many processes sends, by the ring algorithms."""
        return sum(size * _SENT[name](processes) for name, size in self.payload.items())


def _bytes(value: Any) -> Iterable[int]:
    """Of every tensor in nested lists."""
    if isinstance(value, Tensor):
        yield value.numel() * value.element_size()
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _bytes(inner)
