"""Pools that repeat one position, folded into the linear layer behind them: the same function, only where it holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rnet.rewrites.pooled_linear import fold_pools


class Pooled(nn.Module):
    """A network with VGG's ending. flatten: how its features become flat."""

    def __init__(self, flatten: Callable[[Tensor], Tensor] | nn.Module, size: int | tuple[int, int] = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(size)
        self.flatten = flatten
        height, width = (size, size) if isinstance(size, int) else size
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(5 * height * width, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.pool(self.second(self.first(x)))))


def flat(x: Tensor) -> Tensor:
    return torch.flatten(x, 1)


def from_the_second_axis(x: Tensor) -> Tensor:
    return x.flatten(start_dim=1)


def by_samples_and_channels(x: Tensor) -> Tensor:
    return torch.flatten(x, 2).flatten(1)


@pytest.mark.parametrize("flatten", [flat, from_the_second_axis, nn.Flatten()])
@pytest.mark.parametrize("size", [3, (2, 4)])
def test_one_repeated_position_is_read_once(flatten: Callable[[Tensor], Tensor], size: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    model, other = (Pooled(flatten, size).double().eval() for _ in range(2))
    other.load_state_dict(model.state_dict())
    x_BCHW = torch.rand(4, 3, 3, 4, dtype=torch.float64)
    ((name, own),) = fold_pools(other, "first", x_BCHW)
    assert (name, own.in_features, own.out_features) == ("classifier.1", 5, 6)
    own.refresh(model.get_submodule(name))
    torch.testing.assert_close(other(x_BCHW), model(x_BCHW), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "cut", "height"),
    [
        (Pooled(flat), "first", 9),  # more than one position
        (Pooled(flat), "pool", 3),  # z would have another shape
        (Pooled(flat), "classifier", 3),
        (Pooled(flat, 1), "first", 3),  # nothing is repeated
        (Pooled(by_samples_and_channels), "first", 3),  # not known to be flat
    ],
)
def test_what_repeats_nothing_stays(model: Pooled, cut: str, height: int) -> None:
    assert fold_pools(model.eval(), cut, torch.rand(2, 3, height, height)) == []
    assert isinstance(model.pool, nn.AdaptiveAvgPool2d)


def test_a_pool_that_others_read_too_stays() -> None:
    class Twice(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            pooled = self.pool(self.second(self.first(x)))
            return self.classifier(torch.flatten(pooled, 1)) + pooled.mean()

    assert fold_pools(Twice(flat).eval(), "first", torch.rand(2, 3, 3, 3)) == []
