"""The partner search against loops in float64, with ties, a gallery of its own and NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rnet.errors import UserError
from rnet.kernels.partners import partners, partners_op
from tests.kernels import logits_oracle
from tests.kernels.closeness import FLOAT_TYPES

Run = Callable[..., Any]
SIZES = [(1, 1, 1), (1, 5, 2), (2, 2, 10), (5, 3, 1), (5, 19, 10), (2, 7, 1000)]


def draw(B: int, G: int, K: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(B + G + K)
    p_BK, gallery_GK = (torch.randn(rows, K, generator=generator).softmax(1).to(dtype) for rows in (B, G))
    return p_BK, gallery_GK


@pytest.mark.parametrize(("B", "G", "K"), SIZES)
def test_partner_is_the_farthest_row_of_loops_in_float64(run: Run, B: int, G: int, K: int) -> None:
    p_BK, gallery_GK = draw(B, G, K)
    expected = [logits_oracle.partner(p, gallery_GK.double().tolist()) for p in p_BK.double().tolist()]
    found_B = run(partners, p_BK, gallery_GK)
    assert found_B.dtype == torch.int64
    assert found_B.tolist() == expected


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_partner_of_rounded_probabilities_is_as_far_as_any(run: Run, dtype: torch.dtype) -> None:
    p_BK, gallery_GK = draw(5, 19, 17, dtype)
    distances_BG = (p_BK.double()[:, None] - gallery_GK.double()).norm(dim=2)
    found_B = run(partners, p_BK, gallery_GK)
    assert (distances_BG.gather(1, found_B[:, None])[:, 0] >= distances_BG.amax(1) * (1 - 1e-6)).all()


def test_ties_go_to_the_lowest_index_across_tiles(run: Run) -> None:
    p_BK, gallery_GK = draw(9, 40, 10)
    gallery_GK = gallery_GK[:10].repeat(4, 1)
    expected = [logits_oracle.partner(p, gallery_GK[:10].double().tolist()) for p in p_BK.double().tolist()]
    assert run(partners, p_BK, gallery_GK).tolist() == expected


def test_batch_is_its_own_gallery(run: Run) -> None:
    p_BK, _ = draw(5, 1, 10)
    assert torch.equal(run(partners, p_BK), run(partners, p_BK, p_BK))


def test_batch_of_equal_rows_has_the_first_as_partner(run: Run) -> None:
    assert run(partners, torch.full((3, 4), 0.25)).tolist() == [0, 0, 0]


def test_nearly_equal_rows_are_told_apart(run: Run) -> None:
    """A Gram-matrix distance would round all of these to about 0."""
    gallery_GK = torch.full((4, 2), 0.5)
    gallery_GK[2, 0] += 2e-7
    gallery_GK[3, 0] += 1e-7
    assert run(partners, torch.full((1, 2), 0.5), gallery_GK).tolist() == [2]


def test_strided_rows_are_read_in_place(run: Run) -> None:
    p_BK, gallery_GK = draw(5, 19, 10)
    views = p_BK.t().contiguous().t(), gallery_GK.repeat_interleave(2, 1)[:, ::2]
    assert torch.equal(run(partners, *views), partners(p_BK, gallery_GK))


def test_types_may_be_mixed(run: Run) -> None:
    p_BK, gallery_GK = draw(5, 19, 10)
    p_BK = p_BK.bfloat16()
    assert torch.equal(run(partners, p_BK, gallery_GK), partners(p_BK.float(), gallery_GK))


def test_nan_row_gets_the_last_index(run: Run) -> None:
    p_BK, gallery_GK = draw(3, 5, 4)
    expected_B = partners(p_BK, gallery_GK)
    p_BK[1, 2] = math.nan
    expected_B[1] = 4
    assert torch.equal(run(partners, p_BK, gallery_GK), expected_B)


def test_op_is_registered_soundly() -> None:
    torch.library.opcheck(partners_op, draw(5, 7, 10))


BAD = {
    "empty batch": ((torch.zeros(0, 3), torch.zeros(2, 3)), "p_BK has shape .*at least one of each"),
    "empty gallery": ((torch.zeros(2, 3), torch.zeros(0, 3)), "gallery_GK has shape .*at least one of each"),
    "classes": ((torch.zeros(2, 3), torch.zeros(4, 5)), r"gallery_GK has shape \(4, 5\); give \(4, 3\)"),
    "type": ((torch.zeros(2, 3), torch.zeros(4, 3, dtype=torch.int64)), "gallery_GK is int64; give bfloat16"),
    "device": ((torch.zeros(2, 3), torch.zeros(4, 3, device="meta")), "gallery_GK is on meta but p_BK on cpu"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_remedy(name: str) -> None:
    arguments, message = BAD[name]
    with pytest.raises(UserError, match=f"partners: {message}"):
        partners(*arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("B", "G", "K"), [(128, 128, 10), (128, 1024, 1000), (64, 256, 21_841)])
def test_full_size_on_cuda_equals_eager_without_a_synchronisation(B: int, G: int, K: int) -> None:
    p_BK, gallery_GK = (tensor.cuda() for tensor in draw(B, G, K))
    distances_BG = torch.cdist(p_BK.double(), gallery_GK.double(), compute_mode="donot_use_mm_for_euclid_dist")
    partners(p_BK, gallery_GK)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        found_B = partners(p_BK, gallery_GK)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    farthest_B = distances_BG.amax(1)
    assert (distances_BG.gather(1, found_B[:, None])[:, 0] >= farthest_B * (1 - 1e-6)).all()
    clear_B = distances_BG.topk(2).values.diff(dim=1)[:, 0].abs() > 1e-5 * farthest_B
    assert torch.equal(found_B[clear_B], distances_BG.argmax(1)[clear_B])
