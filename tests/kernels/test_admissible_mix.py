"""The mixing at the logits level against loops in float64, in all three target modes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rnet.errors import UserError
from rnet.kernels.admissible_mix import MIXING_WEIGHTS, admissible_mix, admissible_mix_op, mixed_target
from tests.kernels import logits_oracle
from tests.kernels.closeness import FLOAT_TYPES, assert_near

Run = Callable[..., Any]
SIZES = [(1, 1), (2, 2), (5, 10), (2, 1000)]


def draw(B: int, K: int, dtype: torch.dtype = torch.float32, G: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, a gallery, partners, and labels of which most are the argmax of the scores or of the partner's."""
    generator = torch.Generator().manual_seed(B + K)
    scores_BK, gallery_GK = (torch.randn(rows, K, generator=generator).to(dtype) for rows in (B, G))
    partner_B = torch.randint(G, (B,), generator=generator)
    y_B = torch.randint(K, (B,), generator=generator)
    y_B[::2] = scores_BK[::2].float().argmax(1)
    y_B[1::4] = gallery_GK[partner_B][1::4].float().argmax(1)
    return scores_BK, gallery_GK, partner_B, y_B


def in_loops(scores_BK: Tensor, gallery_GK: Tensor, partner_B: Tensor, y_B: Tensor) -> tuple[list[float], Tensor]:
    own = scores_BK.double().tolist()
    others = gallery_GK.double()[partner_B].tolist()
    weights = [logits_oracle.first_admissible(*row) for row in zip(own, others, y_B.tolist(), strict=True)]
    mixed = [logits_oracle.mix(*row) for row in zip(own, others, weights, strict=True)]
    return weights, torch.tensor(mixed, dtype=torch.float64)


@pytest.mark.parametrize(
    ("B", "K", "dtype"),
    [(40, 10, torch.float32), (1, 5000, torch.float32), *((*size, dtype) for size in SIZES for dtype in FLOAT_TYPES)],
)
def test_mix_equals_loops_in_float64(run: Run, B: int, K: int, dtype: torch.dtype) -> None:
    inputs = draw(B, K, dtype)
    mixed_BK, b_B = run(admissible_mix, *inputs)
    weights, expected_BK = in_loops(*inputs)
    assert mixed_BK.dtype == b_B.dtype == torch.float32
    assert torch.equal(b_B, torch.tensor(weights))
    assert_near(mixed_BK, expected_BK, digits=1e-7)


def test_every_weight_and_the_fallback_occur_in_the_cases_above() -> None:
    assert set(in_loops(*draw(40, 10))[0]) == {*MIXING_WEIGHTS, 1.0}


@pytest.mark.parametrize(("B", "K"), [(9, 10), (3, 1000)])
def test_mix_has_the_bits_of_plain_torch(run: Run, B: int, K: int) -> None:
    scores_BK, gallery_GK, partner_B, y_B = draw(B, K)
    mixed_BK, b_B = run(admissible_mix, scores_BK, gallery_GK, partner_B, y_B)
    plain_BK = b_B[:, None] * scores_BK + (1 - b_B)[:, None] * gallery_GK[partner_B]
    assert torch.equal(mixed_BK, plain_BK)


@pytest.mark.parametrize(("y", "expected"), [(1, 0.3), (3, 1.0)])
def test_tied_classes_count_for_the_lowest(run: Run, y: int, expected: float) -> None:
    scores_BK = torch.tensor([[0.1, 0.4, 0.1, 0.4]])
    _, b_B = run(admissible_mix, scores_BK, scores_BK, torch.tensor([0]), torch.tensor([y]))
    assert b_B.tolist() == torch.tensor([expected]).tolist()


def test_weights_are_an_interval_whose_first_is_taken(run: Run) -> None:
    """y wins for weights above 0.25/0.75 against class 0 only, and below 0.5 against class 2 only."""
    scores_BK = torch.tensor([[0.0, 0.50, 0.75]])
    gallery_GK = torch.tensor([[0.75, 0.50, 0.25]])
    _, b_B = run(admissible_mix, scores_BK, gallery_GK, torch.tensor([0]), torch.tensor([1]))
    assert b_B.tolist() == torch.tensor([0.4]).tolist()


def test_strided_inputs_are_read_in_place(run: Run) -> None:
    scores_BK, gallery_GK, partner_B, y_B = draw(5, 10)
    expected_BK, expected_B = admissible_mix(scores_BK, gallery_GK, partner_B, y_B)
    views = scores_BK.t().contiguous().t(), gallery_GK.repeat_interleave(2, 1)[:, ::2]
    mixed_BK, b_B = run(admissible_mix, *views, partner_B.repeat_interleave(2)[::2], y_B.repeat_interleave(3)[::3])
    assert torch.equal(b_B, expected_B)
    assert torch.equal(mixed_BK, expected_BK)


def test_scores_of_minus_infinity_are_never_the_label(run: Run) -> None:
    scores_BK = torch.tensor([[3.0, -math.inf, 0.0]]).expand(3, 3)
    gallery_GK = torch.tensor([[0.0, 5.0, -1e30]])
    mixed_BK, b_B = run(admissible_mix, scores_BK, gallery_GK, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    assert b_B.tolist() == torch.tensor([0.3, 1.0, 1.0]).tolist()
    assert mixed_BK[:, 1].tolist() == [-math.inf] * 3


@pytest.mark.parametrize("K", [3, 5000])
def test_nan_is_not_hidden_and_chooses_as_plain_torch_does(run: Run, K: int) -> None:
    scores_BK = torch.arange(2.0 * K).view(2, K)
    scores_BK[:, 1] = math.nan
    mixed_BK, b_B = run(
        admissible_mix, scores_BK, scores_BK.nan_to_num(0.0), torch.tensor([0, 0]), torch.tensor([K - 1, 0])
    )
    assert b_B.tolist() == torch.tensor([0.3, 1.0]).tolist()
    assert mixed_BK[:, 1].isnan().all()
    assert mixed_BK[:, 2:].isfinite().all()


@pytest.mark.parametrize("mode", ["official", "logits", "probs"])
@pytest.mark.parametrize("own_gallery", [True, False])
def test_mixed_target_equals_loops_in_float64(run: Run, mode: str, own_gallery: bool) -> None:
    logits_BK, gallery_GK, _, y_B = draw(12, 10, G=9)
    gallery_GK = logits_BK if own_gallery else gallery_GK
    mixed_BK = run(mixed_target, logits_BK, y_B, mode, gallery_GK=None if own_gallery else gallery_GK)
    expected = logits_oracle.mixed_target(logits_BK.double().tolist(), y_B.tolist(), mode, gallery_GK.double().tolist())
    assert_near(mixed_BK, torch.tensor(expected, dtype=torch.float64), digits=1e-6)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(UserError, match="mode='prob' does not exist; did you mean probs"):
        mixed_target(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), "prob")  # type: ignore[arg-type]


def test_gradients_are_the_numerical_ones() -> None:
    scores_BK, gallery_GK, partner_B, y_B = draw(5, 4, torch.float64, G=3)
    assert torch.autograd.gradcheck(
        lambda scores, gallery: admissible_mix(scores, gallery, partner_B, y_B)[0],
        (scores_BK.requires_grad_(), gallery_GK.requires_grad_()),
    )


def test_op_is_registered_soundly() -> None:
    scores_BK, gallery_GK, partner_B, y_B = draw(5, 4, torch.bfloat16, G=3)
    arguments = (scores_BK.requires_grad_(), gallery_GK.float().requires_grad_(), partner_B, y_B)
    torch.library.opcheck(admissible_mix_op, arguments)


@pytest.mark.parametrize(("name", "value"), [("y_B", -1), ("y_B", 3), ("partner_B", -1), ("partner_B", 7)])
def test_index_that_does_not_exist_is_refused_on_a_cpu_and_nan_in_the_kernel(name: str, value: int) -> None:
    scores_BK, gallery_GK, partner_B, y_B = draw(2, 3)
    (y_B if name == "y_B" else partner_B)[1] = value
    with pytest.raises(UserError, match=f"{name} has {value}; give values from 0"):
        admissible_mix(scores_BK, gallery_GK, partner_B, y_B)
    pytest.importorskip("triton")
    from tests.kernels.interpreter import interpreted

    mixed_BK, b_B = interpreted(admissible_mix, scores_BK, gallery_GK, partner_B, y_B)
    assert mixed_BK[1].isnan().all()
    assert b_B[1].isnan()
    assert mixed_BK[0].isfinite().all()


BAD = {
    "empty batch": ({"scores_BK": torch.zeros(0, 3)}, "scores_BK has shape .*at least one of each"),
    "empty gallery": ({"gallery_GK": torch.zeros(0, 3)}, "gallery_GK has shape .*at least one of each"),
    "classes": ({"gallery_GK": torch.zeros(7, 4)}, r"gallery_GK has shape \(7, 4\); give \(7, 3\)"),
    "partners' shape": ({"partner_B": torch.zeros(3, dtype=torch.int64)}, r"partner_B has shape \(3,\); give \(2,\)"),
    "labels' shape": ({"y_B": torch.zeros(1, dtype=torch.int64)}, r"y_B has shape \(1,\); give \(2,\)"),
    "labels' type": ({"y_B": torch.zeros(2, dtype=torch.int32)}, "y_B is int32; give int64"),
    "scores' type": ({"scores_BK": torch.zeros(2, 3, dtype=torch.bool)}, "scores_BK is bool; give bfloat16"),
    "device": ({"y_B": torch.zeros(2, dtype=torch.int64, device="meta")}, "y_B is on meta but scores_BK on cpu"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_remedy(name: str) -> None:
    good = dict(zip(("scores_BK", "gallery_GK", "partner_B", "y_B"), draw(2, 3), strict=True))
    changes, message = BAD[name]
    with pytest.raises(UserError, match=f"admissible_mix: .*{message}"):
        admissible_mix(**{**good, **changes})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize(("B", "K"), [(128, 10), (128, 1000), (256, 21_841)])
def test_full_size_on_cuda_has_the_reference_bits_without_a_synchronisation(B: int, K: int, dtype: torch.dtype) -> None:
    inputs = draw(B, K, dtype, G=B)
    expected_BK, expected_B = admissible_mix(*inputs)
    on_gpu = [tensor.cuda() for tensor in inputs]
    admissible_mix(*on_gpu)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        mixed_BK, b_B = admissible_mix(*on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(b_B.cpu(), expected_B)
    assert torch.equal(mixed_BK.cpu(), expected_BK)
