"""The ranks of a group prove to each other, over the group's own connections, that they are no strangers.

gloo takes whoever connects first, with a number that is easily guessed, for the rank that it waits for. It keeps its
connections for the life of the group, so one proof for each, right after they were made, is enough.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from rnet.errors import UserError, first_line

PROOF_SECONDS = 120.0


def require_peers(proof: Callable[[str], bytes], group: str, *, seconds: float = PROOF_SECONDS) -> None:
    """Called by all ranks. Raises UserError where somebody else has connected in place of a rank, or says nothing.

    proof: of a text, by whoever knows the run's token. group: a name that no other group of the run has.
    """
    me = dist.get_rank()
    others = [rank for rank in range(dist.get_world_size()) if rank != me]
    said = {other: _tensor(proof(f"{group}: {me} to {other}")) for other in others}
    heard = {other: torch.zeros_like(said[other]) for other in others}
    works = [(other, dist.irecv(heard[other], other)) for other in others]
    works += [(other, dist.isend(said[other], other)) for other in others]
    for other, work in works:
        assert work is not None, "this rank is one of the group"
        try:
            work.wait(timedelta(seconds=seconds))
        except RuntimeError as error:
            raise _stranger(other, first_line(error)) from None
    for other in others:
        if not hmac.compare_digest(bytes(heard[other].numpy()), proof(f"{group}: {other} to {me}")):
            raise _stranger(other, "it does not know the run's token")


def _tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _stranger(rank: int, problem: str) -> UserError:
    return UserError(
        f"who connected as rank {rank} has not proved that it is rank {rank} ({problem}): another process of this "
        "machine or network may have come first; start the run again, and look who uses its ports"
    )
