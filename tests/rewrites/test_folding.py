"""Folding batch norm into convolutions: the same function, in eval mode, and the original left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision import models

from rnet.cutting.split import SplitModel
from rnet.models.resnet import SmallResNet
from rnet.rewrites.folding import FoldedSplit, foldable_pairs, folded


def lived_in(model: nn.Module) -> nn.Module:
    """The model in float64 with batch norm statistics and scales that training might have left."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            if module.track_running_stats:
                module.running_mean = torch.randn(module.num_features, generator=generator)
                module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
            nn.init.normal_(module.weight, 1.0, 0.3, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.3, generator=generator)
    return model.double().eval()


class Entangled(nn.Module):
    """Pairs that must not be folded: a conv output used twice, a conv called twice, no fixed statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv3, self.norm3 = nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5, track_running_stats=False)
        self.conv4, self.norm4 = nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.norm1(x) + x
        x = self.norm2(self.conv2(self.norm2(self.conv2(x))))
        x = self.norm3(self.conv3(x))
        return self.norm4(self.conv4(x)).mean(dim=(2, 3))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0.5:
            x = x + 1
        return self.norm(self.conv(x)).mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("build", "pairs"),
    [
        (lambda: SmallResNet(5, width=4), 9),
        (lambda: models.resnet18(weights=None, num_classes=5), 20),
        (lambda: models.mobilenet_v2(weights=None, num_classes=5, width_mult=0.25), 52),
        (lambda: models.vgg11_bn(weights=None, init_weights=False, num_classes=5), 8),
        (Entangled, 1),
        (Untraceable, 0),
        (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.Flatten()), 0),
    ],
    ids=["resnet8", "resnet18", "mobilenet_v2", "vgg11_bn", "entangled", "untraceable", "norm_first"],
)
def test_a_folded_model_computes_the_same_function(build, pairs: int) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = lived_in(build())
    before = copy.deepcopy(model.state_dict())
    x_BCHW = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = folded(model)
    with torch.no_grad():
        torch.testing.assert_close(found(x_BCHW), model(x_BCHW), rtol=1e-10, atol=1e-10)
    assert len(foldable_pairs(model)) == pairs
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in found.modules()) == norms - pairs
    assert [name for name, _ in found.named_modules()] == [name for name, _ in model.named_modules()]
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_layer_with_a_hook_is_not_folded() -> None:
    """A hook would see another value."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    assert foldable_pairs(model) == [("0", "1")]
    model[0].register_forward_hook(lambda *_: None)
    assert foldable_pairs(model) == []


def test_training_mode_of_the_original_is_kept() -> None:
    model = SmallResNet(5, width=4).train()
    folded(model)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("build", "layer", "pairs"),
    [
        (lambda: SmallResNet(5, width=4), "layer1", 9),
        (lambda: SmallResNet(5, width=4), "conv1", 8),
        (lambda: models.vgg11_bn(weights=None, init_weights=False, num_classes=5), "features", 8),
        (lambda: models.vgg11_bn(weights=None, init_weights=False, num_classes=5), "features.8", 7),
    ],
    ids=["between blocks", "at a convolution", "vgg", "at a convolution of vgg"],
)
def test_a_folded_split_follows_the_weights_and_keeps_z(build, layer: str, pairs: int) -> None:  # type: ignore[no-untyped-def]
    """z is what the cut layer returns, also where that is a convolution whose batch norm belongs to the tail."""
    torch.manual_seed(0)
    source = SplitModel(lived_in(build()), layer)
    x_BCHW = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    follower = FoldedSplit(source, x_BCHW)
    assert sum(isinstance(module, nn.Identity) for module in follower.split.modules()) >= pairs
    optimizer = torch.optim.SGD(source.parameters(), lr=1e-3)
    for _ in range(2):
        source.train()
        source(x_BCHW).square().mean().backward()
        optimizer.step()
        source.eval()
        with torch.no_grad():
            stale = follower.split(x_BCHW)
            follower.refresh()
            z = source.head(x_BCHW)
            torch.testing.assert_close(follower.split.head(x_BCHW), z, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(follower.split.tail(z), source.tail(z), rtol=1e-9, atol=1e-9)
            assert not torch.allclose(stale, follower.split(x_BCHW), rtol=1e-9, atol=1e-9), "the weights have moved"
    z.requires_grad_(True)
    gradients = [torch.autograd.grad(split.tail(z).square().sum(), z)[0] for split in (source, follower.split)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)
    assert not any(parameter.requires_grad for parameter in follower.split.parameters())


def test_a_refresh_has_the_bits_of_torchs_own_folding() -> None:
    """Although it takes the channels of all convolutions at once; with what norms and convolutions may lack."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU(), nn.Conv2d(4, 5, 1, bias=False)]
    model = lived_in(nn.Sequential(*layers, nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1), nn.BatchNorm2d(2)))
    model[4].weight = model[4].bias = None
    source = SplitModel(model.float(), "2")
    follower = FoldedSplit(source, torch.rand(2, 3, 8, 8))
    with torch.no_grad():
        for tensor in (*source.parameters(), *source.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1.1)
    follower.refresh()
    for conv_name, norm_name in (("0", "1"), ("3", "4"), ("6", "7")):
        conv, norm = source.model.get_submodule(conv_name), source.model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        expected = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        own = follower.split.model.get_submodule(conv_name)
        assert all(map(torch.equal, own.parameters(), expected))


def test_weights_are_held_in_the_type_of_an_autocast_which_then_casts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    source = SplitModel(lived_in(models.vgg11_bn(weights=None, num_classes=5)).float(), "features.8")
    x_BCHW = torch.rand(2, 3, 32, 32)
    follower = FoldedSplit(source, x_BCHW, held=torch.bfloat16)
    own = dict(follower.split.model.named_modules())
    products = [module for module in own.values() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(products) == 11
    assert {parameter.dtype for module in products for parameter in module.parameters()} == {torch.bfloat16}
    for _ in range(2):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.mul_(1.01)
            follower.refresh()
            for name in ("classifier.3", "classifier.6"):  # neither folded nor pooled
                linear = source.model.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                assert torch.equal(own[name].weight, linear.weight.bfloat16())
            with torch.autocast("cpu", torch.bfloat16):
                found, expected = follower.split(x_BCHW), source(x_BCHW)
        assert (found - expected).abs().max() < 0.05 * expected.abs().max()
