"""Winograd's convolutions against torch's direct ones in float64, their rounding, gradients and edge cases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rnet.errors import UserError
from rnet.rewrites.cpu.products import PackedWeights
from rnet.rewrites.cpu.winograd import multiplications, transform_weights, winograd_conv

SIZES = [(2, 2), (4, 4), (8, 8), (1, 1), (2, 3), (3, 2), (5, 4), (7, 7), (4, 9), (1, 6)]


def draw(N: int, C: int, K: int, H: int, W: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """A map, weights, bias and a gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(N, C, H, W), (K, C, 3, 3), (K,), (N, K, H, W)]
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    size = (x.shape[2], x.shape[3])
    return winograd_conv(x, PackedWeights(lambda: transform_weights(weight, size, stride)), bias, size, stride)


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
        found = convolve(ours, weight, given)
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

    def both(convolution: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, bias, gradient = tensors
        leaf = x.clone().requires_grad_(True)
        y = convolution(leaf, weight, bias)
        return y.detach(), torch.autograd.grad(y, leaf, gradient)[0]

    def direct(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=1)

    tensors = (x, weight, bias, gradient)
    exact, summed = both(direct, *tensors), both(direct, *(tensor.abs() for tensor in tensors))
    half_place = torch.finfo(torch.float32).eps / 2
    for result, expected, scale in zip(both(convolve, *(t.float() for t in tensors)), exact, summed, strict=True):
        error = (result.double() - expected).abs() / half_place
        assert error.norm() < 2 * scale.norm()
        assert (error < 32 * scale).all()


def test_a_map_of_4_is_halved() -> None:
    x, weight, bias, gradient = draw(3, 5, 2, 4, 4)
    ours, theirs = (x.clone().requires_grad_(True) for _ in range(2))
    found, expected = convolve(ours, weight, bias, stride=2), F.conv2d(theirs, weight, bias, stride=2, padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    found.backward(gradient[..., :2, :2])
    expected.backward(gradient[..., :2, :2])
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-11)


def test_the_output_is_channels_last_and_may_be_modified_in_place() -> None:
    x, weight, bias, gradient = draw(2, 3, 4, 4, 4)
    results = []
    for convolution in (lambda x: convolve(x, weight, bias), lambda x: F.conv2d(x, weight, bias, padding=1)):
        leaf = x.clone().requires_grad_(True)
        out = convolution(leaf)
        out += 1
        out.relu_().backward(gradient)
        results.append((out.detach(), leaf.grad))
    torch.testing.assert_close(*results)
    assert convolve(x, weight).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (3, 5)])
def test_it_can_be_differentiated_twice(size: tuple[int, int]) -> None:
    x, weight, bias, _ = draw(2, 3, 2, *size)
    leaf = x.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: convolve(x, weight, bias), leaf)
    assert torch.autograd.gradgradcheck(lambda x: convolve(x, weight, bias).square(), leaf)


def test_the_layout_of_the_weights_does_not_matter() -> None:
    _, weight, _, _ = draw(1, 3, 2, 4, 4)
    u = transform_weights(weight, (4, 4))
    assert u.shape == (36, 2, 3)
    torch.testing.assert_close(u, transform_weights(weight.contiguous(memory_format=torch.channels_last), (4, 4)))


def test_multiplications_left() -> None:
    assert [multiplications(size) for size in ((2, 2), (4, 4), (8, 8), (5, 3))] == [9, 36, 144, 72]
    assert multiplications((4, 4), stride=2) == 25


def refusals() -> list[tuple[list[object], str]]:
    x, weight, bias, _ = draw(2, 3, 4, 4, 4, dtype=torch.float32)
    u = PackedWeights(lambda: transform_weights(weight, (4, 4)))
    return [
        ([x.half(), u, bias], "float32"),
        ([x.int(), u, bias], "int32"),
        ([x[0], u, bias], r"\(3, 4, 4\)"),
        ([x[:0], u, bias], "none empty"),
        ([x[:, :2], u, bias], r"\(2, 3, 4, 4\)"),
        ([x[..., :2, :2], u, bias], r"\(2, 3, 4, 4\)"),
        ([x.double(), u, bias], "weights torch.float32"),
        ([x, u, bias[:2]], "bias"),
    ]


@pytest.mark.parametrize("number", range(8))
def test_what_does_not_fit_is_refused(number: int) -> None:
    arguments, words = refusals()[number]
    with pytest.raises(UserError, match=words):
        winograd_conv(*arguments, (4, 4))  # type: ignore[arg-type]


def test_weights_that_are_not_3x3_are_refused() -> None:
    with pytest.raises(UserError, match="without groups"):
        transform_weights(torch.randn(4, 3, 5, 5), (4, 4))


def test_other_strides_are_refused() -> None:
    with pytest.raises(UserError, match="stride=2"):
        transform_weights(torch.randn(4, 3, 3, 3), (8, 8), stride=2)
