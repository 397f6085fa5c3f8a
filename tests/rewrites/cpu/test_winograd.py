"""Winograd's convolutions against torch's direct ones in float64, their rounding, gradients and edge cases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rnet.errors import UserError
from rnet.rewrites.cpu import winograd
from rnet.rewrites.cpu.winograd import products, transform_weights, winograd_conv, winograd_conv_op

SIZES = [(2, 2), (4, 4), (8, 8), (1, 1), (2, 3), (3, 2), (5, 4), (7, 7), (4, 9), (1, 6)]


def draw(N: int, C: int, K: int, H: int, W: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """A map, weights, bias and a gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(N, C, H, W), (K, C, 3, 3), (K,), (N, K, H, W)]
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return x.repeat_interleave(2, dim=1).repeat_interleave(2, dim=3)[:, ::2, :, 1::2]
    return x


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("N", "C", "K"), [(1, 1, 1), (3, 5, 2), (2, 4, 7)])
def test_it_is_the_convolution_and_its_gradient(N: int, C: int, K: int, size: tuple[int, int], layout: str) -> None:
    x, weight, bias, gradient = draw(N, C, K, *size)
    for given in (bias, None):
        ours, theirs = (laid_out(x.clone(), layout).requires_grad_(True) for _ in range(2))
        found = winograd_conv(ours, transform_weights(weight, size), given)
        expected = F.conv2d(theirs, weight, given, padding=1)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
        found.backward(gradient)
        expected.backward(gradient)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("channels", "size"), [(256, (4, 4)), (128, (8, 8)), (512, (2, 2)), (256, (7, 7))])
def test_float32_rounds_little_in_comparison_with_what_is_summed(channels: int, size: tuple[int, int]) -> None:
    """Forward and backward: error of a result against the sum of the absolute values of all its products.

    In units of half a last place it is .3 to 1.2 (norms over all results), 12 at most of a single one, whatever the
    CPU: the transforms make it, not the order of the sums. The usual points 0, +-1, +-2 make about twice as much.
    """
    x, weight, bias, gradient = draw(2, channels, channels, *size)

    def both(convolve: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, bias, gradient = tensors
        leaf = x.clone().requires_grad_(True)
        y = convolve(leaf, weight, bias)
        return y.detach(), torch.autograd.grad(y, leaf, gradient)[0]

    def direct(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=1)

    def fast(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return winograd_conv(x, transform_weights(weight, size), bias)

    tensors = (x, weight, bias, gradient)
    exact, summed = both(direct, *tensors), both(direct, *(tensor.abs() for tensor in tensors))
    half_place = torch.finfo(torch.float32).eps / 2
    for result, expected, scale in zip(both(fast, *(t.float() for t in tensors)), exact, summed, strict=True):
        error = (result.double() - expected).abs() / half_place
        assert error.norm() < 2 * scale.norm()
        assert (error < 32 * scale).all()


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (6, 5)])
def test_chunks_change_nothing_and_leave_nothing_behind(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Work areas are kept between calls: what they held before, here NaN, must not show."""
    x, weight, bias, _ = draw(7, 3, 4, *size)
    u = transform_weights(weight, size)
    whole = winograd_conv(x, u, bias)
    monkeypatch.setattr(winograd, "SCRATCH_ELEMENTS", 1)
    for tiles in (1, 4, 9):
        monkeypatch.setattr(winograd, "FEWEST_TILES", tiles)
        for area in vars(winograd._areas).values():
            area.fill_(torch.nan)
        torch.testing.assert_close(winograd_conv(x, u, bias), whole, rtol=1e-12, atol=1e-12)


def test_threads_have_work_areas_of_their_own() -> None:
    work = [draw(16, 8, 8, 8, 8, seed=seed)[:3] for seed in range(8)]

    def compute(item: list[Tensor]) -> Tensor:
        x, weight, bias = item
        u = transform_weights(weight, (8, 8))
        for _ in range(20):
            found = winograd_conv(x, u, bias)
        return found

    with ThreadPoolExecutor(4) as pool:
        for found, (x, weight, bias) in zip(pool.map(compute, work), work, strict=True):
            torch.testing.assert_close(found, F.conv2d(x, weight, bias, padding=1), rtol=1e-11, atol=1e-11)


def test_the_output_is_channels_last_and_may_be_modified_in_place() -> None:
    x, weight, bias, gradient = draw(2, 3, 4, 4, 4)
    results = []
    for convolve in (
        lambda x: winograd_conv(x, transform_weights(weight, (4, 4)), bias),
        lambda x: F.conv2d(x, weight, bias, padding=1),
    ):
        leaf = x.clone().requires_grad_(True)
        out = convolve(leaf)
        out += 1
        out.relu_().backward(gradient)
        results.append((out.detach(), leaf.grad))
    torch.testing.assert_close(*results)
    assert winograd_conv(x, transform_weights(weight, (4, 4))).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (3, 5)])
def test_the_operator_is_registered_as_torch_asks(size: tuple[int, int]) -> None:
    x, weight, bias, _ = draw(2, 3, 2, *size)
    u = transform_weights(weight, size)
    leaf = x.requires_grad_(True)
    torch.library.opcheck(winograd_conv_op, (leaf, u, bias, False))
    torch.library.opcheck(winograd_conv_op, (leaf, u, None, False))
    assert torch.autograd.gradcheck(lambda x: winograd_conv(x, u, bias), leaf)
    assert torch.autograd.gradgradcheck(lambda x: winograd_conv(x, u, bias).square(), leaf)


def test_weights_are_transformed_in_place_where_asked() -> None:
    _, weight, _, _ = draw(1, 3, 2, 4, 4)
    own = torch.full((36, 3, 2), torch.nan, dtype=torch.float64)
    assert transform_weights(weight, (4, 4), out=own).data_ptr() == own.data_ptr()
    assert torch.equal(own, transform_weights(weight.contiguous(memory_format=torch.channels_last), (4, 4)))


def test_multiplications_left() -> None:
    assert [products(size) for size in ((2, 2), (4, 4), (8, 8), (5, 3))] == [9, 36, 144, 72]


def refusals() -> list[tuple[list[object], str]]:
    x, weight, bias, _ = draw(2, 3, 4, 4, 4, dtype=torch.float32)
    u = transform_weights(weight, (4, 4))
    return [
        ([x.half(), u, bias], "float32"),
        ([x.int(), u, bias], "int32"),
        ([x[0], u, bias], r"\(3, 4, 4\)"),
        ([x[:0], u, bias], "none empty"),
        ([x[:, :2], u, bias], r"\(36, 2, 4\)"),
        ([x[..., :2, :2], u, bias], r"\(9, 3, 4\)"),
        ([x, u[0], bias], "transform_weights"),
        ([x, u.double(), bias], "u is torch.float64"),
        ([x, u, bias[:2]], "bias"),
    ]


@pytest.mark.parametrize("number", range(9))
def test_what_does_not_fit_is_refused(number: int) -> None:
    arguments, words = refusals()[number]
    with pytest.raises(UserError, match=words):
        winograd_conv(*arguments)  # type: ignore[arg-type]


def test_weights_that_are_not_3x3_are_refused() -> None:
    with pytest.raises(UserError, match="without groups"):
        transform_weights(torch.randn(4, 3, 5, 5), (4, 4))
