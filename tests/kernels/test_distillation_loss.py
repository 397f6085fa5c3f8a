"""The distillation loss and its gradient against loops in float64, and what it does with infinite logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rnet.errors import UserError
from rnet.kernels.distillation_loss import distillation_loss, distillation_loss_op
from tests.kernels import logits_oracle
from tests.kernels.closeness import FLOAT_TYPES, assert_near

Run = Callable[..., Any]
SETTINGS = {"temperature": 20.0, "alpha": 0.2, "gamma": 0.6}
SIZES = [(1, 1), (2, 1), (5, 2), (1, 10), (5, 10), (2, 1000)]


def loss_and_gradient(
    logits_BK: Tensor, target_BK: Tensor, y_B: Tensor, incoming: float, **settings: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, kl, ce, gradient of incoming * loss), the last by autograd."""
    logits_BK = logits_BK.detach().requires_grad_()
    loss, parts = distillation_loss(logits_BK, target_BK, y_B, **{**SETTINGS, **settings})
    (gradient_BK,) = torch.autograd.grad(loss, logits_BK, torch.full_like(loss, incoming))
    return loss.detach(), parts["kl"], parts["ce"], gradient_BK


def draw(B: int, K: int, dtype: torch.dtype, soften: bool) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(B + K)
    logits_BK = (torch.randn(B, K, generator=generator) * 5).to(dtype)
    scores_BK = torch.randn(B, K, generator=generator)
    return logits_BK, scores_BK if soften else scores_BK.softmax(1), torch.randint(K, (B,), generator=generator)


def in_loops(logits_BK: Tensor, target_BK: Tensor, y_B: Tensor, soften: bool) -> tuple[float, float, float, Tensor]:
    T = SETTINGS["temperature"]
    q = target_BK.double().tolist()
    q = [logits_oracle.softmax([value / T for value in row]) for row in q] if soften else q
    loss, kl, ce, slopes = logits_oracle.distillation(logits_BK.double().tolist(), q, y_B.tolist(), **SETTINGS)
    return loss, kl, ce, torch.tensor(slopes, dtype=torch.float64)


def assert_equal_to_loops(
    result: tuple[Tensor, ...], expected: tuple[float, float, float, Tensor], incoming: float
) -> None:
    loss, kl, ce, gradient_BK = result
    for value, oracle in zip((loss, kl, ce), expected[:3], strict=True):
        # The parts are differences of logarithms of up to log K + the range of logits / T: an absolute error too.
        assert_near(value, torch.tensor(oracle), scale=max(abs(oracle), 400 * 10 / 20), digits=1e-6)
    assert_near(gradient_BK, incoming * expected[3])


@pytest.mark.parametrize("soften", [True, False])
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize(("B", "K"), SIZES)
def test_loss_and_gradient_equal_loops_in_float64(run: Run, B: int, K: int, dtype: torch.dtype, soften: bool) -> None:
    logits_BK, target_BK, y_B = draw(B, K, dtype, soften)
    result = run(loss_and_gradient, logits_BK, target_BK, y_B, -2.5, soften_target=soften)
    assert result[0].dtype == torch.float32
    assert result[3].dtype == dtype
    assert_equal_to_loops(result, in_loops(logits_BK, target_BK, y_B, soften), -2.5)


@pytest.mark.parametrize("soften", [True, False])
def test_strided_logits_targets_and_labels_are_read_in_place(run: Run, soften: bool) -> None:
    logits_BK, target_BK, y_B = draw(5, 10, torch.float32, soften)
    expected = in_loops(logits_BK, target_BK, y_B, soften)
    views = logits_BK.t().contiguous().t(), target_BK.repeat_interleave(2, 1)[:, ::2], y_B.repeat_interleave(3)[::3]
    assert_equal_to_loops(run(loss_and_gradient, *views, 3.0, soften_target=soften), expected, 3.0)


@pytest.mark.parametrize("soften", [True, False])
def test_rows_longer_than_a_block_are_summed_whole(run: Run, soften: bool) -> None:
    logits_BK, target_BK, y_B = draw(2, 21_841, torch.float32, soften)
    y_B[0] = 21_840
    result = run(loss_and_gradient, logits_BK, target_BK, y_B, 1.0, soften_target=soften)
    assert_equal_to_loops(result, in_loops(logits_BK, target_BK, y_B, soften), 1.0)


def test_target_that_does_not_sum_to_one_is_taken_as_it_is(run: Run) -> None:
    logits_BK, target_BK, y_B = draw(5, 10, torch.float32, soften=False)
    target_BK = 0.7 * target_BK
    result = run(loss_and_gradient, logits_BK, target_BK, y_B, 1.0, soften_target=False)
    assert_equal_to_loops(result, in_loops(logits_BK, target_BK, y_B, soften=False), 1.0)


def test_hard_target_has_no_logarithm_of_zero(run: Run) -> None:
    logits_BK, _, y_B = draw(5, 10, torch.float32, soften=False)
    target_BK = torch.nn.functional.one_hot((y_B + 1) % 10, 10).float()
    result = run(loss_and_gradient, logits_BK, target_BK, y_B, 1.0, soften_target=False)
    assert_equal_to_loops(result, in_loops(logits_BK, target_BK, y_B, soften=False), 1.0)


def test_float16_gradients_are_scaled_before_they_are_rounded(run: Run) -> None:
    """Most of these underflow in float16 unless the incoming gradient, a loss scale, is multiplied in first."""
    logits_BK, target_BK, y_B = draw(2, 1000, torch.float16, soften=True)
    scale = 2.0**14
    *_, gradient_BK = run(loss_and_gradient, logits_BK, target_BK, y_B, scale, alpha=0.0, soften_target=True)
    *_, slopes = logits_oracle.distillation(
        logits_BK.double().tolist(), target_BK.softmax(1).double().tolist(), y_B.tolist(), 20.0, 0.0, 0.6
    )
    expected_BK = torch.tensor(slopes, dtype=torch.float64) * scale
    assert (expected_BK.abs() / scale < torch.finfo(torch.float16).smallest_normal).float().mean() > 0.5
    assert_near(gradient_BK, expected_BK, digits=1e-9)


def test_huge_logits_give_the_exact_loss(run: Run) -> None:
    logits_BK = torch.tensor([[1e30, -1e30, 0.0], [-3e38, 3e37, 0.0]])
    target_BK, y_B = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 1])
    loss, kl, ce, gradient_BK = run(loss_and_gradient, logits_BK, target_BK, y_B, 1.0, soften_target=False)
    assert (loss, kl, ce) == (0, 0, 0)
    assert torch.equal(gradient_BK, torch.zeros(2, 3))


def test_logit_of_minus_infinity_is_a_class_of_probability_zero(run: Run) -> None:
    logits_BK = torch.tensor([[1.0, -math.inf, 2.0]])
    target_BK, y_B = torch.tensor([[0.4, 0.0, 0.6]]), torch.tensor([0])
    result = run(loss_and_gradient, logits_BK, target_BK, y_B, 2.0, soften_target=False)
    loss, kl, ce, gradient = in_loops(logits_BK[:, ::2], target_BK[:, ::2], y_B, soften=False)
    with_class = torch.cat([gradient[:, :1], torch.zeros(1, 1), gradient[:, 1:]], dim=1)
    assert_equal_to_loops(result, (loss, kl, ce, with_class), 2.0)


def test_target_on_a_class_of_probability_zero_costs_infinity_with_a_finite_gradient(run: Run) -> None:
    logits_BK, y_B = torch.tensor([[1.0, -math.inf, 2.0]]), torch.tensor([1])
    target_BK = torch.tensor([[0.4, 0.1, 0.5]])
    loss, kl, ce, gradient_BK = run(loss_and_gradient, logits_BK, target_BK, y_B, 1.0, soften_target=False)
    assert (loss, kl, ce) == (math.inf, math.inf, math.inf)
    assert gradient_BK.isfinite().all()
    assert gradient_BK[0, 1].item() == pytest.approx(-0.1 * 0.2 * 20 - 0.6, rel=1e-6)


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("K", [3, 9000])
def test_infinite_or_nan_logit_gives_nan(run: Run, value: float, K: int) -> None:
    logits_BK, target_BK, y_B = draw(2, K, torch.float32, soften=True)
    logits_BK[1, K - 1] = value
    loss, kl, ce, gradient_BK = run(loss_and_gradient, logits_BK, target_BK, y_B, 1.0, soften_target=True)
    assert loss.isnan()
    assert kl.isnan()
    assert ce.isnan()
    assert gradient_BK[1].isnan().any()
    assert gradient_BK[0].isfinite().all()


def test_nan_in_the_target_is_not_hidden(run: Run) -> None:
    logits_BK, target_BK, y_B = draw(2, 3, torch.float32, soften=False)
    target_BK[0, 1] = math.nan
    loss, *_ = run(loss_and_gradient, logits_BK, target_BK, y_B, 1.0, soften_target=False)
    assert loss.isnan()


def test_gradient_is_the_numerical_one() -> None:
    logits_BK, target_BK, y_B = draw(3, 4, torch.float64, soften=True)
    for soften in (True, False):
        q_BK = target_BK.double() if soften else target_BK.double().softmax(1)
        assert torch.autograd.gradcheck(
            lambda logits, q=q_BK, s=soften: distillation_loss(logits, q, y_B, soften_target=s, **SETTINGS)[0],
            logits_BK.requires_grad_(),
        )


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_the_reference_rounds_as_autograd_does(dtype: torch.dtype) -> None:
    """Bit for bit, so that the op may stand for the formula written down."""
    logits_BK, q_BK, y_B = draw(7, 10, dtype, soften=False)
    *_, found_BK = loss_and_gradient(logits_BK, q_BK, y_B, 1.0, soften_target=False)
    leaf_BK = logits_BK.requires_grad_()
    float_BK = leaf_BK.float()
    log_s_BK = F.log_softmax(float_BK / SETTINGS["temperature"], dim=1)
    kl = SETTINGS["temperature"] ** 2 * F.kl_div(log_s_BK, q_BK, reduction="batchmean")
    (SETTINGS["alpha"] * kl + SETTINGS["gamma"] * F.cross_entropy(float_BK, y_B)).backward()
    assert torch.equal(found_BK, leaf_BK.grad)


def test_parts_and_target_take_no_part_in_gradients() -> None:
    logits_BK, target_BK, y_B = draw(2, 3, torch.float32, soften=True)
    loss, parts = distillation_loss(
        logits_BK.requires_grad_(), target_BK.requires_grad_(), y_B, soften_target=True, **SETTINGS
    )
    assert not parts["kl"].requires_grad
    assert not parts["ce"].requires_grad
    loss.backward()
    assert target_BK.grad is None
    assert logits_BK.grad is not None


def test_op_is_registered_soundly() -> None:
    logits_BK, target_BK, y_B = draw(3, 4, torch.bfloat16, soften=True)
    arguments = (logits_BK.requires_grad_(), target_BK, y_B, 20.0, 0.2, 0.6, True)
    torch.library.opcheck(distillation_loss_op, arguments)


@pytest.mark.parametrize("label", [-100, -1, 3])
def test_label_that_does_not_exist_is_refused_on_a_cpu(label: int) -> None:
    logits_BK, target_BK, y_B = draw(2, 3, torch.float32, soften=True)
    y_B[1] = label
    with pytest.raises(UserError, match=f"y_B has {label}; give values from 0 to 2"):
        distillation_loss(logits_BK, target_BK, y_B, soften_target=True, **SETTINGS)


@pytest.mark.parametrize("label", [-100, -1, 3])
def test_label_that_does_not_exist_becomes_nan_in_the_kernel(label: int) -> None:
    pytest.importorskip("triton")
    from tests.kernels.interpreter import interpreted

    logits_BK, target_BK, y_B = draw(2, 3, torch.float32, soften=True)
    y_B[1] = label
    result = interpreted(loss_and_gradient, logits_BK, target_BK, y_B, 1.0, soften_target=True)
    loss, kl, ce, gradient_BK = result
    assert loss.isnan()
    assert ce.isnan()
    assert kl.isfinite()
    assert gradient_BK[1].isnan().all()
    assert gradient_BK[0].isfinite().all()


BAD = {
    "empty batch": ({"logits_BK": torch.zeros(0, 3)}, "at least one of each"),
    "no classes": ({"logits_BK": torch.zeros(2, 0)}, "at least one of each"),
    "vector": ({"logits_BK": torch.zeros(3)}, "at least one of each"),
    "target's shape": ({"target_BK": torch.zeros(2, 4)}, r"target_BK has shape \(2, 4\); give \(2, 3\)"),
    "labels' shape": ({"y_B": torch.zeros(3, dtype=torch.int64)}, r"y_B has shape \(3,\); give \(2,\)"),
    "labels' type": ({"y_B": torch.zeros(2)}, "y_B is float32; give int64"),
    "integer logits": ({"logits_BK": torch.zeros(2, 3, dtype=torch.int32)}, "logits_BK is int32; give bfloat16"),
    "device": ({"target_BK": torch.zeros(2, 3, device="meta")}, "target_BK is on meta but logits_BK on cpu"),
    "temperature": ({"temperature": 0.0}, "temperature=0.0; give a positive number"),
    "temperature's size": ({"temperature": math.inf}, "temperature=inf; give a positive number"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_remedy(name: str) -> None:
    logits_BK, target_BK, y_B = draw(2, 3, torch.float32, soften=True)
    good = {"logits_BK": logits_BK, "target_BK": target_BK, "y_B": y_B, "soften_target": True, **SETTINGS}
    changes, message = BAD[name]
    with pytest.raises(UserError, match=f"distillation_loss: .*{message}"):
        distillation_loss(**{**good, **changes})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("soften", [True, False])
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize(("B", "K"), [(128, 10), (128, 1000), (256, 21_841)])
def test_full_size_on_cuda_equals_eager_without_a_synchronisation(
    B: int, K: int, dtype: torch.dtype, soften: bool
) -> None:
    logits_BK, target_BK, y_B = (tensor.cuda() for tensor in draw(B, K, dtype, soften))
    leaf_BK = logits_BK.double().requires_grad_()
    T = SETTINGS["temperature"]
    q_BK = (target_BK.double() / T).softmax(1) if soften else target_BK.double()
    kl = T**2 * torch.nn.functional.kl_div((leaf_BK / T).log_softmax(1), q_BK, reduction="batchmean")
    ce = torch.nn.functional.cross_entropy(leaf_BK, y_B)
    expected = SETTINGS["alpha"] * kl + SETTINGS["gamma"] * ce
    (expected_BK,) = torch.autograd.grad(expected, leaf_BK, torch.full_like(expected, -2.5))
    loss_and_gradient(logits_BK, target_BK, y_B, -2.5, soften_target=soften)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = loss_and_gradient(logits_BK, target_BK, y_B, -2.5, soften_target=soften)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_equal_to_loops(result, (expected.item(), kl.item(), ce.item(), expected_BK / -2.5), -2.5)
