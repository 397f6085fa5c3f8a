"""Convolutions of the tiniest maps as products: the same function, its gradient, and weights that are followed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from rnet.cutting.split import SplitModel
from rnet.rewrites.convolutions import quicken
from rnet.rewrites.folding import FoldedSplit, folded
from rnet.rewrites.tiny_maps import KINDS, DenseConv2d, HalvingDenseConv2d
from tests.rewrites.test_folding import lived_in


def images(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(3, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_product_is_the_convolution(
    kind: type[DenseConv2d], size: tuple[int, int], bias: bool, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, stride=kind.stride, padding=1, bias=bias).double().requires_grad_(False)
    x = torch.randn(4, 5, *size, dtype=torch.float64).to(memory_format=layout).requires_grad_(True)
    expected, found = conv(x), kind(conv, size)(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slope = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, x, slope)[0] for y in (expected, found)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "size", "count"),
    [
        (lambda: models.vgg11_bn(weights=None, init_weights=False, num_classes=5), 32, 2),  # at 2x2
        (lambda: models.resnet18(num_classes=5), 32, 7),  # three each at 2x2 and 1x1, and one between
        (lambda: models.resnet18(num_classes=5), 224, 0),
        (lambda: models.densenet121(weights=None, num_classes=5), 32, 40),
    ],
    ids=["vgg11_bn", "resnet18", "resnet18 of large images", "densenet121"],
)
def test_a_model_stays_the_same_function(build, size: int, count: int) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = folded(lived_in(build()))
    x = images(size).requires_grad_(True)
    expected = model(x)
    (slope,) = torch.autograd.grad(expected.square().sum(), x)
    rewritten = quicken(model, x[:1], KINDS)
    assert len(rewritten) == count
    found = model(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x)[0], slope, rtol=1e-8, atol=1e-9)


def test_strides_are_told_apart() -> None:
    rewritten = quicken(folded(models.resnet18(num_classes=5)).double(), images(32)[:1], KINDS)
    assert sum(type(module) is HalvingDenseConv2d for module in rewritten) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rewritten_copy_follows_the_weights_in_place(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    source = SplitModel(
        lived_in(models.vgg11_bn(weights=None, init_weights=False, num_classes=5)).float(), "features.8"
    )
    x = images(32, torch.float32)
    follower = FoldedSplit(source, x[:1], held=None if dtype == torch.float32 else dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        rewritten = quicken(follower.split.model, x[:1], KINDS)
        assert len(rewritten) == 2
        places = [module.weight.data_ptr() for module in rewritten]  # a recorded graph reads them there
        assert all(module.weight.dtype == dtype for module in rewritten)
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        follower.refresh()
        for module in rewritten:
            module.refresh()
        assert [module.weight.data_ptr() for module in rewritten] == places
        found, expected = follower.split(x), source.eval()(x).detach()
    tolerance = 1e-5 if dtype == torch.float32 else 0.05 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=tolerance)


def test_maps_of_another_size_take_the_convolution() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(DenseConv2d(conv, (2, 2))(x), conv(x))
