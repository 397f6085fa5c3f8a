"""Convolutions trained as products of each tap: the same function and gradients, where it pays and nowhere else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from rnet.engines.choice import build_engine
from rnet.engines.config import EngineConfig
from rnet.models import conv_by_taps
from rnet.models.conv_by_taps import conv2d_by_taps, use_library, use_products

CASES = [  # map, kernel, stride, padding
    ((2, 2), (3, 3), (1, 1), (1, 1)), ((1, 1), (3, 3), (1, 1), (1, 1)), ((1, 2), (3, 3), (2, 2), (1, 1)),
    ((4, 4), (3, 3), (2, 2), (1, 1)), ((5, 7), (3, 3), (2, 1), (1, 1)), ((6, 5), (3, 3), (1, 1), (0, 0)),
    ((7, 7), (1, 1), (2, 2), (0, 0)), ((5, 6), (5, 3), (1, 1), (2, 1)), ((9, 8), (4, 2), (3, 2), (1, 0)),
    ((3, 3), (7, 7), (2, 2), (3, 3)),
]  # fmt: skip


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), CASES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_it_is_conv2d(size, kernel, stride, padding, bias: bool, memory_format: torch.memory_format) -> None:  # type: ignore[no-untyped-def]
    x, weight = values(3, 4, *size), values(5, 4, *kernel, seed=1)
    inputs = [x.to(memory_format=memory_format), weight.to(memory_format=memory_format), *([values(5)] if bias else [])]
    inputs = [tensor.requires_grad_(True) for tensor in inputs]
    given = [*inputs, *([] if bias else [None])]
    expected = F.conv2d(*given, stride, padding)  # type: ignore[arg-type]
    found = conv2d_by_taps(*given, stride, padding)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradient = values(*expected.shape, seed=2)
    slopes = torch.autograd.grad(expected, inputs, gradient)
    for own, slope in zip(torch.autograd.grad(found, inputs, gradient), slopes, strict=True):
        torch.testing.assert_close(own, slope, rtol=1e-11, atol=1e-11)


def test_only_gradients_that_are_asked_for_are_computed() -> None:
    x, weight, bias = values(2, 3, 2, 2), values(4, 3, 3, 3), values(4)
    for wanted in range(3):
        inputs = [tensor.clone().requires_grad_(n == wanted) for n, tensor in enumerate((x, weight, bias))]
        conv2d_by_taps(*inputs, (1, 1), (1, 1)).square().sum().backward()
        assert [tensor.grad is not None for tensor in inputs] == [n == wanted for n in range(3)]


def test_a_gradient_that_is_one_number_everywhere() -> None:
    """The backward pass of a sum gives a tensor whose elements share their memory."""
    x, weight = values(2, 3, 2, 2), values(4, 3, 3, 3).requires_grad_(True)
    conv2d_by_taps(x, weight, None, (1, 1), (1, 1)).sum().backward()
    expected = torch.autograd.grad(F.conv2d(x, weight, None, 1, 1).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, expected)


def test_gradients_have_the_memory_format_of_channels_last_weights() -> None:
    """So that the optimizer's tensors are laid out alike."""
    weight = values(4, 3, 3, 3).to(memory_format=torch.channels_last).requires_grad_(True)
    x = values(2, 3, 4, 4).to(memory_format=torch.channels_last)
    conv2d_by_taps(x, weight, None, (1, 1), (1, 1)).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.stride() == weight.stride()


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: models.resnet18(num_classes=5), 10),  # all of layer3 and layer4
        (lambda: models.mobilenet_v2(num_classes=5), 8),  # the widest 1x1 convolutions
        (lambda: nn.Conv2d(128, 128, 3), 0),
        (lambda: nn.Conv2d(64, 512, 3), 0),
        (lambda: nn.Conv2d(256, 256, 3, groups=2), 0),
        (lambda: nn.Conv2d(256, 256, 3, dilation=2), 0),
        (lambda: nn.Conv2d(256, 256, 3, padding=1, padding_mode="circular"), 0),
        (lambda: nn.Conv2d(256, 256, 3, padding="same"), 0),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(256, 256, 3)), 0),
        (lambda: nn.Conv2d(128, 256, 3), 1),
    ],
)
def test_which_convolutions_train_so(build, count: int) -> None:  # type: ignore[no-untyped-def]
    model = build()
    names = list(model.state_dict())
    assert use_products(model) == count
    assert list(model.state_dict()) == names
    assert sum("forward" in vars(module) for module in model.modules()) == count
    assert use_products(model) == 0, "they do already"
    use_library(model)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[nn.Parameter]:
    """The weights with which convolutions went by products."""
    found: list[nn.Parameter] = []

    def noted(x, weight, *rest):  # type: ignore[no-untyped-def]
        found.append(weight)
        return conv2d_by_taps(x, weight, *rest)

    monkeypatch.setattr(conv_by_taps, "conv2d_by_taps", noted)
    return found


def test_what_does_not_pay_goes_through_the_library(calls: list[nn.Parameter]) -> None:
    conv = nn.Conv2d(128, 256, 3)
    use_products(conv)
    small = torch.randn(1, 128, 4, 4)
    with torch.no_grad():
        conv(small)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(small).dtype == torch.bfloat16
    conv(torch.randn(1, 128, 17, 4))
    frozen = copy.deepcopy(conv).requires_grad_(False)
    frozen(small.requires_grad_(True))
    copy.deepcopy(conv).double()(small.double())
    assert calls == []
    conv(small)
    assert len(calls) == 1
    use_library(conv)
    conv(small)
    assert len(calls) == 1


def test_a_copy_calls_its_own_weights(calls: list[nn.Parameter]) -> None:
    conv = nn.Conv2d(128, 256, 3)
    use_products(conv)
    copied = copy.deepcopy(conv)
    copied(torch.randn(1, 128, 4, 4))
    assert [weight is copied.weight for weight in calls] == [True]


def wide() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(128, 256, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 5))


@pytest.mark.parametrize(
    ("settings", "precision", "count"),
    [
        ({}, "fp32", 2), ({"small_maps": False}, "fp32", 0), ({"compile": True}, "fp32", 0), ({}, "bf16", 0),
    ],
)  # fmt: skip
def test_engines_train_by_products_where_they_may(settings: dict[str, bool], precision: str, count: int) -> None:
    model = wide()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    config = EngineConfig(name="plain", **settings)  # type: ignore[arg-type]
    engine = build_engine(config, model, optimizer, schedule, precision=precision, clip_norm=None)
    assert engine.by_products == count
    assert ("2 convolutions trained by matrix products" in engine.describe()) == bool(count)
    engine.finish()
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_engine_takes_the_same_steps(checkpointing: bool, calls: list[nn.Parameter]) -> None:
    states = []
    x = torch.randn(6, 128, 4, 4, generator=torch.Generator().manual_seed(0))
    for small_maps in (False, True):
        model = wide()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        config = EngineConfig(name="plain", small_maps=small_maps, activation_checkpointing=checkpointing)
        engine = build_engine(config, model, optimizer, schedule, precision="fp32", clip_norm=None)
        for _ in range(3):
            engine.descend(lambda rows, e=engine: (F.cross_entropy(e.forward(x[rows]), torch.arange(6) % 5), {}), 6)
        assert bool(calls) == small_maps
        states.append(model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-6)
