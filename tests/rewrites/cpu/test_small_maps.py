"""Which convolutions of small maps are rewritten, and that the model stays the same function."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from rnet.cutting.split import SplitModel
from rnet.models.resnet import SmallResNet
from rnet.rewrites.convolutions import RewrittenConv2d
from rnet.rewrites.convolutions import quicken as quicken_as
from rnet.rewrites.cpu import small_maps
from rnet.rewrites.cpu.small_maps import KINDS, HalvingConv2d, SubsampledConv2d, WinogradConv2d
from rnet.rewrites.folding import FoldedSplit, folded
from tests.rewrites.test_folding import lived_in


def quicken(model: nn.Module, x_BCHW: Tensor) -> list[RewrittenConv2d]:
    return quicken_as(model, x_BCHW, KINDS)


def image(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(2, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("channels", "size", "expected"),
    [
        ((512, 512), (2, 2), True), ((512, 512), (4, 4), True), ((128, 128), (8, 8), True),
        ((128, 128), (16, 16), True),
        ((256, 256), (7, 7), True), ((128, 128), (7, 7), False), ((64, 128), (8, 8), False), ((128, 64), (8, 8), False),
        ((512, 512), (1, 1), False), ((512, 512), (3, 3), False), ((512, 512), (5, 5), False),
        ((128, 128), (32, 32), False),
    ],
)  # fmt: skip
def test_where_it_pays(channels: tuple[int, int], size: tuple[int, int], expected: bool) -> None:
    assert WinogradConv2d.pays(*channels, size) == expected


def test_where_the_others_pay() -> None:
    assert [HalvingConv2d.pays(256, 512, size) for size in ((4, 4), (8, 8), (2, 2))] == [True, False, False]
    assert [SubsampledConv2d.pays(64, 128, size) for size in ((8, 8), (16, 16))] == [True, False]
    assert not HalvingConv2d.pays(64, 128, (4, 4))
    assert not SubsampledConv2d.pays(32, 64, (8, 8))


@pytest.mark.parametrize(
    ("build", "size", "count"),
    [
        (lambda: models.resnet18(num_classes=5), 64, 12),  # 9 by Winograd, 1 halving, 2 subsampled
        (lambda: models.vgg11_bn(weights=None, init_weights=False, num_classes=5), 32, 6),
        (lambda: models.densenet121(weights=None, num_classes=5), 32, 0),
        (lambda: models.mobilenet_v2(weights=None, num_classes=5), 32, 0),
        (lambda: SmallResNet(5), 32, 0),
    ],
    ids=["resnet18", "vgg11_bn", "densenet121", "mobilenet_v2", "resnet8"],
)
def test_a_model_stays_the_same_function(build, size: int, count: int) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = folded(lived_in(build()))
    x = image(size).requires_grad_(True)
    expected = model(x)
    (slope,) = torch.autograd.grad(expected.square().sum(), x)
    names = list(model.state_dict())
    assert len(quicken(model, x[:1])) == count
    found = model(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x)[0], slope, rtol=1e-8, atol=1e-9)
    assert len(model.state_dict()) == len(names)


def test_a_rewritten_copy_follows_the_weights() -> None:
    torch.manual_seed(0)
    source = SplitModel(lived_in(models.vgg11_bn(weights=None, init_weights=False, num_classes=5)), "features.8")
    follower = FoldedSplit(source, image(32)[:1])
    rewritten = quicken(follower.split.model, image(32)[:1])
    assert len(rewritten) == 6
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
        stale = follower.split(image(32))
        follower.refresh()
        for convolution in rewritten:
            convolution.refresh()
        z = source.head(image(32))
        torch.testing.assert_close(follower.split.head(image(32)), z, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(follower.split.tail(z), source.tail(z), rtol=1e-9, atol=1e-9)
        assert not torch.allclose(stale, follower.split(image(32)), rtol=1e-9, atol=1e-9)
    assert all(not parameter.requires_grad for parameter in follower.split.parameters())


@pytest.mark.parametrize(
    ("kind", "conv", "size"),
    [
        (WinogradConv2d, {"kernel_size": 3, "padding": 1}, (4, 4)),
        (HalvingConv2d, {"kernel_size": 3, "padding": 1, "stride": 2}, (4, 4)),
        (SubsampledConv2d, {"kernel_size": 1, "stride": 2}, (7, 6)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_each_rewritten_convolution_equals_its_own(kind, conv, size: tuple[int, int], bias: bool) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    direct = nn.Conv2d(3, 5, **conv, bias=bias).double().requires_grad_(False)
    quick = kind(direct, size)
    direct.weight.mul_(-2.0).add_(0.1)
    quick.refresh()
    x = torch.randn(4, 3, *size, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn_like(direct(x))
    for found, expected in zip(
        (quick(x), *torch.autograd.grad(quick(x), x, gradient)),
        (direct(x), *torch.autograd.grad(direct(x), x, gradient)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    assert quick(x).is_contiguous(memory_format=torch.channels_last)
    fed = x.detach().to(memory_format=torch.channels_last).requires_grad_(True)
    (slope,) = torch.autograd.grad(quick(fed), fed, gradient)
    assert slope.is_contiguous(memory_format=torch.channels_last), "or what comes before walks through memory twice"


def test_a_copy_packs_weights_of_its_own() -> None:
    quick = WinogradConv2d(wide(), (4, 4))
    x = torch.randn(2, 128, 4, 4)
    before = quick(x)
    other = copy.deepcopy(quick)
    other.conv.weight.mul_(2)
    other.conv.bias.mul_(2)
    torch.testing.assert_close(other(x), 2 * before)
    assert torch.equal(quick(x), before)


def test_what_is_compiled_around_it_computes_the_same() -> None:
    model = nn.Sequential(WinogradConv2d(wide(), (4, 4)), nn.ReLU())
    x = torch.randn(2, 128, 4, 4, requires_grad=True)
    results = []
    for function in (model, torch.compile(model, dynamic=False)):
        y = function(x)
        results.append((y.detach(), torch.autograd.grad(y.square().sum(), x)[0]))
    torch.testing.assert_close(*results)


def wide() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(128, 128, 3, padding=1).requires_grad_(False)


def test_other_maps_and_types_take_the_direct_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = wide()
    quick = WinogradConv2d(conv, (4, 4))
    used = []
    monkeypatch.setattr(small_maps, "winograd_conv", lambda *arguments: used.append(1) or conv(arguments[0]))
    for x in (torch.randn(1, 128, 4, 8), torch.randn(1, 128, 2, 2)):
        assert torch.equal(quick(x), conv(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quick(torch.randn(1, 128, 4, 4)).dtype == torch.bfloat16
    assert not used
    quick(torch.randn(1, 128, 4, 4))
    assert used


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3, stride=2),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(128, 128, 5, padding=2),
        nn.Conv2d(128, 128, 3),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(128, 128, 3, padding=1)),
    ],
    ids=[
        "strided",
        "strided, no border",
        "1x1",
        "dilated",
        "grouped",
        "circular",
        "5x5",
        "no border",
        "reparametrised",
    ],
)
def test_other_convolutions_stay(conv: nn.Module) -> None:
    model = nn.Sequential(copy.deepcopy(conv))
    assert quicken(model, torch.randn(1, 128, 8, 8)) == []
    assert type(model[0]) is type(conv)


def test_what_is_hooked_or_called_at_two_sizes_stays() -> None:
    hooked = nn.Sequential(wide())
    hooked[0].register_forward_hook(lambda *_: None)
    assert quicken(hooked, torch.randn(1, 128, 8, 8)) == []
    conv = wide()
    twice = nn.Sequential(conv, nn.MaxPool2d(2), conv)
    assert quicken(twice, torch.randn(1, 128, 8, 8)) == []
    same = nn.Sequential(nn.Conv2d(128, 128, 3, padding="same"))
    assert len(quicken(same, torch.randn(1, 128, 8, 8))) == 1
    assert isinstance(same[0], WinogradConv2d)
