"""Where channels are after an operation, by running it on numbers that count them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rnet.attacks.obfuscate.groups import Group
from rnet.attacks.obfuscate.layouts import Layout, entries, moved

GROUP = Group(4)


@pytest.mark.parametrize(
    ("operation", "axis", "repeat"),
    [
        (lambda x: x, 1, 1),
        (lambda x: x.flatten(1), 1, 9),
        (lambda x: x.mean((2, 3)), 1, 1),
        (lambda x: x.transpose(1, 2), 2, 1),
        (lambda x: x.flatten(2).transpose(1, 2), 2, 1),
        (lambda x: x[:, :, :1], 1, 1),
        (lambda x: x.unsqueeze(1), 2, 1),
    ],
)
def test_channels_that_stay_side_by_side_are_followed(
    operation: Callable[[Tensor], Tensor], axis: int, repeat: int
) -> None:
    x_BCHW = torch.rand(2, 4, 3, 3)
    found = moved(Layout(1, ((GROUP, 1),)), x_BCHW, operation)
    assert found == Layout(axis, ((GROUP, repeat),))
    assert entries(found) == operation(x_BCHW).shape[axis]


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.flip(1),
        lambda x: x.roll(1, 1),
        lambda x: x.mean(1, keepdim=True),
        lambda x: x[:, :2],
        lambda x: x.repeat(1, 2, 1, 1),
        lambda x: x.permute(0, 2, 3, 1).flatten(1),
        lambda x: x.flatten(0),
        lambda x: x.view(2, 2, 2, 3, 3),
        lambda x: x[:0],
    ],
)
def test_channels_that_change_places_or_mix_are_not(operation: Callable[[Tensor], Tensor]) -> None:
    assert moved(Layout(1, ((GROUP, 1),)), torch.rand(2, 4, 3, 3), operation) is None


def test_several_groups_side_by_side_keep_their_order() -> None:
    other = Group(2)
    layout = Layout(1, ((GROUP, 1), (other, 2)))
    assert entries(layout) == 8
    found = moved(layout, torch.rand(2, 8, 3, 3), lambda x: x.flatten(1))
    assert found == Layout(1, ((GROUP, 9), (other, 18)))
