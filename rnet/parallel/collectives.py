"""What the processes of one run tell each other: sums, rows, decisions. Alone, everything is the identity.

Every function is called by all ranks in the same order. Rank r holds the r-th contiguous share of a global batch, so
that rows gathered in the order of ranks are in global order. Shapes: N rows, R ranks.
"""

from __future__ import annotations

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
    """Rank 0's value, on every rank; anything that can be pickled."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: T) -> list[T]:
    """Every rank's value, in the order of ranks; anything that can be pickled, of any size."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


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
