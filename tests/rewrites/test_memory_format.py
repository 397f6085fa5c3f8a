"""channels_last is used where it is safe, and changes no result."""

from __future__ import annotations

import copy

import torch
from torch import nn

from rnet.models.resnet import SmallResNet
from rnet.rewrites.memory_format import use_channels_last


def test_a_network_with_a_narrow_strided_1x1_convolution_stays_contiguous() -> None:
    model = SmallResNet(10, 1, width=4)
    assert not use_channels_last(model)
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_a_wide_network_becomes_channels_last_and_computes_the_same() -> None:
    torch.manual_seed(0)
    model = SmallResNet(10, 3, width=16)
    other = copy.deepcopy(model)
    assert use_channels_last(other)
    convolution = other.get_submodule("layer2.0.conv1")
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    x_BCHW = torch.rand(4, 3, 16, 16)
    for network in (model, other):
        network(x_BCHW).square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=name)
