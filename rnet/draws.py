"""Random numbers as a pure function of (seed, purpose, step, sample, element): the same bits on every device and split.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). It is counter
based: there is no state to save, and a sample draws the same numbers whichever process, batch or device it falls on.
A stream is named by its purpose; two uses that must be independent need two purposes.
Shapes: B samples, C channels.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rnet.errors import UserError
from rnet.kernels.philox import philox_words

_WORD = 0xFFFFFFFF


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for `torch.Generator.manual_seed`, a function of its arguments only (first 8 bytes of a SHA-256).

    Arguments are hashed with their types and boundaries: ("a", "b"), ("ab",), (1,) and ("1",) all differ.
    """
    return _hash64(operator.index(seed), *purpose) >> 1


def uniform(
    seed: int, purpose: str, step: int | Tensor, sample_ids_B: Tensor, count: int, *, device: torch.device | str
) -> Tensor:
    """float32 (B, count) on `device`, uniform over the 2^24 multiples of 2^-24 in [0, 1).

    sample_ids_B: int64 global sample indices, on any device. step: in [0, 2^32); or a 0-dim int64 tensor on `device`.
    Element e of a sample is word e mod 4 of the Philox block with counter (e div 4, sample low, sample high, step).
    """
    return _words(_hash64(operator.index(seed), purpose), step, sample_ids_B, count, device, fractions=True)


def channel_permutations(
    seed: int,
    purpose: str,
    step: int | Tensor,
    sample_ids_B: Tensor,
    calls: int,
    channels: int,
    rho: float,
    *,
    device: torch.device | str,
) -> Tensor:
    """int64 (calls, B, C) on `device`: for each call and sample its own permutation of the channels.

    ceil(rho * C) channels are chosen uniformly and permuted uniformly among themselves, fixed points allowed; the
    others stay (RemovalNet, Yao et al. 2023, the channel shuffle of the latent level). Raises UserError unless
    0 <= rho <= 1.
    """
    if not 0.0 <= rho <= 1.0:
        raise UserError(f"rho={rho!r} is not a share of the channels; give a number from 0 to 1")
    moved = moved_channels(channels, rho)
    batch = len(sample_ids_B)
    identity_ABC = torch.arange(channels, device=device).expand(calls, batch, channels)
    if moved < 2 or calls == 0 or batch == 0:
        return identity_ABC.clone()
    key = _hash64(operator.index(seed), purpose)
    words_BAC = _words(key, step, sample_ids_B, calls * channels, device, fractions=False).view(batch, calls, channels)
    # Appending the channel makes all sort keys distinct, so that every device orders them alike.
    keys_ABC = words_BAC.transpose(0, 1).contiguous().mul_(1 << 31).add_(identity_ABC)
    if moved == channels:
        return keys_ABC.argsort(dim=-1)
    chosen_ABM = keys_ABC.topk(moved, dim=-1, largest=False, sorted=True).indices
    return identity_ABC.clone().scatter_(-1, chosen_ABM.sort(dim=-1).values, chosen_ABM)


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchDraws:
    """The random numbers of one batch in one step: every purpose is a stream, of which each sample has its own part.

    step: a number or a 0-dim int64 tensor; sample_ids_B: int64. Both tensors are on the device that draws.
    """

    seed: int
    step: int | Tensor
    sample_ids_B: Tensor

    def uniform_like(self, z: Tensor, purpose: str) -> Tensor:
        """float32, of z's shape and on its device, uniform on [0, 1)."""
        count = math.prod(z.shape[1:])
        return uniform(self.seed, purpose, self.step, self.sample_ids_B, count, device=z.device).view(z.shape)

    def channel_permutations(self, purpose: str, calls: int, channels: int, rho: float) -> Tensor | None:
        """int64 (calls, B, C), see channel_permutations; None if they would move nothing."""
        if moved_channels(channels, rho) < 2:
            return None
        device = self.sample_ids_B.device
        return channel_permutations(
            self.seed, purpose, self.step, self.sample_ids_B, calls, channels, rho, device=device
        )


def moved_channels(channels: int, rho: float) -> int:
    """How many channels a shuffle permutes: ceil(rho * channels). One alone has nowhere to go."""
    return math.ceil(rho * channels - 1e-9)  # .02 * 50 must not become 2 because of rounding


def _words(
    key: int, step: int | Tensor, sample_ids_B: Tensor, count: int, device: torch.device | str, *, fractions: bool
) -> Tensor:
    """(B, count) words: all 32 bits as int64, or as fractions the upper 24 bits in float32."""
    ids_B = sample_ids_B.to(device=device, dtype=torch.int64, non_blocking=True)
    if not isinstance(step, Tensor):  # to look at a tensor would wait for its device
        if not 0 <= step <= _WORD:
            raise UserError(f"step={step} is outside [0, 2^32), the range of the random draws")
        step = torch.full((), step, dtype=torch.int64, device=ids_B.device)
    return philox_words(ids_B, step, key, count, fractions=fractions)


@lru_cache(maxsize=4096, typed=True)
def _hash64(*parts: str | int) -> int:
    """The first 64 bits of a SHA-256 over the parts, written as JSON so that types and boundaries count."""
    text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "little")
