"""Convolutions of the tiniest maps as products: the same function, its gradient, and weights that are followed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from rnet.cutting.split import SplitModel
from rnet.engines.plain import PlainEngine
from rnet.rewrites.convolutions import quicken
from rnet.rewrites.folding import FoldedSplit, folded
from rnet.rewrites.in_training import train_as_torch
from rnet.rewrites.tiny_maps import (
    FEWEST_IMAGES,
    KINDS,
    DenseConv2d,
    HalvingDenseConv2d,
    train_as_products,
)
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


def products(function: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many linear layers a call computes, of a network that has none."""
    calls: list[Tensor] = []
    linear = nn.functional.linear
    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "linear", lambda x, *rest: (calls.append(x), linear(x, *rest))[1])
        function()
    return len(calls)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_in_training_a_product_is_the_convolution(
    size: tuple[int, int], stride: int, bias: bool, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, stride=stride, padding=1, bias=bias).to(memory_format=layout)
    model = nn.Sequential(conv)
    x = torch.randn(FEWEST_IMAGES, 5, *size).to(memory_format=layout).requires_grad_(True)
    inputs = (x, *conv.parameters())
    expected = conv(x)
    slope = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, inputs, slope)
    assert train_as_products(model) == 1
    assert products(lambda: model(x), monkeypatch) == 1
    found = model(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found, inputs, slope), gradients, rtol=1e-5, atol=1e-5)
    train_as_torch(model)
    assert products(lambda: model(x), monkeypatch) == 0


@pytest.mark.parametrize(
    ("images", "size", "stride", "precision", "count"),
    [
        (FEWEST_IMAGES - 1, 2, 1, "fp32", 0),
        (FEWEST_IMAGES - 1, 1, 1, "fp32", 1),
        (FEWEST_IMAGES - 1, 2, 2, "fp32", 1),  # to one pixel
        (FEWEST_IMAGES, 3, 1, "fp32", 0),
        (FEWEST_IMAGES, 2, 1, "bf16", 0),
        (FEWEST_IMAGES, 2, 1, "fp64", 0),
    ],
)
def test_in_training_convolutions_that_would_not_gain_stay(
    images: int, size: int, stride: int, precision: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.float64 if precision == "fp64" else torch.float32
    model = nn.Sequential(nn.Conv2d(5, 7, 3, stride=stride, padding=1)).to(dtype)
    x = torch.randn(images, 5, size, size, dtype=dtype)
    expected = model(x)
    train_as_products(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        assert products(lambda: model(x), monkeypatch) == count
    torch.testing.assert_close(model(x), expected)


def test_what_no_product_stands_for_stays_in_training() -> None:
    hooked = nn.Conv2d(4, 4, 3, padding=1)
    hooked.register_forward_hook(lambda *_: None)
    convolutions = (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 4, 1), hooked)
    assert train_as_products(nn.Sequential(*convolutions)) == 0


@pytest.mark.parametrize("quicken", [True, False])
def test_an_engine_trains_so_and_hands_back_an_ordinary_network(quicken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = SplitModel(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1), nn.Flatten()), "0")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    engine = PlainEngine(model, optimizer, schedule, quicken=quicken)
    x = torch.rand(FEWEST_IMAGES, 3, 2, 2)
    assert products(lambda: engine.forward(x), monkeypatch) == 2 * quicken
    copy = FoldedSplit(model, x[:1]).split
    assert not any("forward" in vars(module) for module in copy.modules())
    engine.finish()
    assert not any("forward" in vars(module) for module in model.modules())
