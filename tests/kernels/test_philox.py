"""The Triton words are the reference's, bit for bit; the reference itself is tested in test_draws.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rnet.kernels.philox import philox_words
from tests.kernels.interpreter import interpreted

KEY = 0x9ABCDEF012345678
IDS = [0, 7, 2**31 - 1, 2**31, 2**32 + 5, 2**63 - 1]
CASES = [(1, True), (4, False), (5, True), (1023, True), (1024, False), (1025, True), (3000, False)]


def drawn(ids: list[int], step: int, key: int, count: int, fractions: bool, device: str = "cpu") -> Tensor:
    sample_ids_B, at = torch.tensor(ids, device=device), torch.tensor(step, device=device)
    return philox_words(sample_ids_B, at, key, count, fractions=fractions)


@pytest.mark.parametrize(("count", "fractions"), CASES)
@pytest.mark.parametrize(("step", "key"), [(0, KEY), (2**32 - 1, 2**64 - 1), (12345, 0), (1, 2**31)])
def test_triton_writes_the_reference_s_words(count: int, fractions: bool, step: int, key: int) -> None:
    expected = drawn(IDS, step, key, count, fractions)
    assert torch.equal(interpreted(drawn, IDS, step, key, count, fractions), expected)


def test_no_samples_draw_nothing() -> None:
    assert interpreted(drawn, [], 0, KEY, 5, True).shape == drawn([], 0, KEY, 5, True).shape == (0, 5)


def test_the_op_keeps_torch_library_s_rules() -> None:
    arguments = (torch.tensor([3, 2**40]), torch.tensor(9), 123, 456, 10, True)
    torch.library.opcheck(torch.ops.rnet.philox, arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("count", "fractions"), CASES)
def test_cuda_writes_the_reference_s_words(count: int, fractions: bool) -> None:
    for step, key in ((0, KEY), (2**32 - 1, 2**64 - 1)):
        found = drawn(IDS, step, key, count, fractions, device="cuda")
        assert torch.equal(found.cpu(), drawn(IDS, step, key, count, fractions))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_drawing_on_cuda_takes_no_more_memory_than_the_draws() -> None:
    ids, step = torch.arange(64, device="cuda"), torch.tensor(3, device="cuda")
    philox_words(ids, step, KEY, 8, fractions=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = philox_words(ids, step, KEY, 1 << 18, fractions=True)
    assert torch.cuda.max_memory_allocated() - before <= 1.01 * found.numel() * 4
