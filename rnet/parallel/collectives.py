"""What the processes of one run tell each other: sums, rows, decisions. Alone, everything is the identity.

Every function is called by all ranks in the same order. Rank r holds the r-th contiguous share of a global batch, so
that rows gathered in the order of ranks are in global order. Only tensors and JSON are sent: torch's collectives for
objects unpickle what they receive, so that whoever can speak to a rank could run code there. Shapes: N rows, R ranks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """How many processes share this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def sum_over_ranks(value: Tensor) -> Tensor:
    """The elementwise sum over all ranks, the same bits on each; not differentiable."""
    if world_size() == 1:
        return value
    total = _sendable(value).clone()
    dist.all_reduce(total)
    return total.to(value.device)


def gather_rows(rows_N: Tensor) -> Tensor:
    """The rows of all ranks, (R * N, ...), in the order of ranks; each rank gives equally many. Not differentiable."""
    if world_size() == 1:
        return rows_N
    sent = _sendable(rows_N).contiguous()
    received = [torch.empty_like(sent) for _ in range(world_size())]
    dist.all_gather(received, sent)
    return torch.cat(received).to(rows_N.device)


def any_rank(flag: bool) -> bool:
    """Whether the flag is raised on any rank."""
    return bool(sum_over_ranks(torch.tensor(int(flag))).item())


def same_on_all(value: T) -> T:
    """Rank 0's value, on every rank: None, bool, int, float, str, and lists and dictionaries (by str) of these.

    The others' values are not looked at. Raises TypeError for anything else, also for tuples, which JSON has not got.
    """
    if world_size() == 1:
        return value
    return _from_bytes(same_tensor_on_all(_as_bytes(value) if rank() == 0 else None))


def same_tensor_on_all(value: Tensor | None) -> Tensor:
    """Rank 0's tensor, on every rank, on its device where the rank gives one, else on the CPU. Not differentiable."""
    if world_size() == 1:
        assert value is not None
        return value
    # The type and the number of dimensions, then the shape: all ranks know how much comes next.
    mine = value if rank() == 0 else None
    known = [0, 0] if mine is None else [_TYPES.index(mine.dtype), mine.dim()]
    kind, dimensions = _broadcast(torch.tensor(known)).tolist()
    shape = _broadcast(torch.tensor([0] * dimensions if mine is None else mine.shape, dtype=torch.int64)).tolist()
    found = _broadcast(torch.empty(shape, dtype=_TYPES[kind]) if mine is None else mine.detach().cpu().clone())
    return found.to("cpu" if value is None else value.device)


def gather_values(value: T) -> list[T]:
    """Every rank's value, in the order of ranks; of the kinds that same_on_all takes, of any size."""
    if world_size() == 1:
        return [value]
    return [_from_bytes(found) for found in _gather_shares(_as_bytes(value))]


def gather_ragged_rows(rows_N: Tensor) -> Tensor:
    """The rows of all ranks, in the order of ranks; each gives as many as it has. Not differentiable."""
    return rows_N if world_size() == 1 else torch.cat(_gather_shares(rows_N))


def wait_for_all() -> None:
    """Returns when every rank has called it."""
    if world_size() > 1:
        dist.barrier()


def map_rows(function: Callable[..., Any], *tensors_N: Tensor) -> Any:
    """function(*tensors_N), each rank computing an equal share of the rows.

    function returns a tensor or a tuple of tensors with one row for each of its input rows, and what a row becomes must
    not depend on the others. Every rank calls it exactly once, on equally many rows (the first ones fill up the last
    share), so that function may itself use collectives, as sharded models do. Alone it is called as it is.
    """
    count, ranks = len(tensors_N[0]), world_size()
    if ranks == 1 or count == 0:
        return function(*tensors_N)
    share = -(-count // ranks)
    index_S = (torch.arange(share) + rank() * share) % count
    found = function(*(tensor[index_S.to(tensor.device)] for tensor in tensors_N))
    if isinstance(found, tuple):
        return tuple(gather_rows(rows)[:count] for rows in found)
    return gather_rows(found)[:count]


def _sendable(value: Tensor) -> Tensor:
    """The tensor where the backend can send it from: NCCL moves CUDA tensors only."""
    if dist.get_backend() == "nccl":
        return value.cuda()
    return value


_TYPES = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.float16, torch.bfloat16,
    torch.float32, torch.float64,
)  # fmt: skip
"""What can be sent, by a number that all ranks know."""


def _broadcast(value: Tensor) -> Tensor:
    """Rank 0's tensor, where this rank gives one of the same type and shape."""
    sent = _sendable(value).contiguous()
    dist.broadcast(sent, src=0)
    return sent


def _gather_shares(rows_N: Tensor) -> list[Tensor]:
    """The rows of each rank: all are filled up to as many as the longest has, and cut again."""
    counts = gather_rows(torch.tensor([len(rows_N)])).tolist()
    filled = rows_N.new_zeros(max(counts), *rows_N.shape[1:])
    filled[: len(rows_N)] = rows_N
    shares = gather_rows(filled).unflatten(0, (len(counts), max(counts)))
    return [share[:count] for share, count in zip(shares, counts, strict=True)]


def _as_bytes(value: Any) -> Tensor:
    """JSON as uint8 (N,)."""
    _require_json(value)
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _from_bytes(data_N: Tensor) -> Any:
    return json.loads(bytes(data_N.cpu().numpy()))


def _require_json(value: Any) -> None:
    """Of what json would turn into something else without a word, nothing is sent."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for inner in value.values():
            _require_json(inner)
    elif isinstance(value, list):
        for inner in value:
            _require_json(inner)
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise TypeError(f"{type(value).__name__} {value!r:.80} cannot be sent to other processes; send tensors or JSON")
