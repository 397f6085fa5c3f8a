"""Modules as users write them, for the cut: some can be followed exactly, some cannot be followed at all."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn


class UserModel(nn.Module):
    """Two layers; subclasses say how they are put together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("shift", torch.arange(4.0))


class DefaultArguments(UserModel):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 2.0) -> Tensor:
        x = self.first(x if mask is None else x * mask)
        return self.second(x * scale)


class WritesInPlace(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = x.view(-1, 4)
        y += self.shift
        return self.second(x)


class CountsWithIntegers(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        count = kept = x.shape[1]
        count += 1
        return self.second(x) * count + kept


class ReadsAWeightTwice(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        weight, shift = self.second.weight, self.shift
        x = self.first(x @ weight + shift)
        return x @ weight.t() + shift + weight.shape[0]


class ComputesWithBuffers(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + (self.shift * 2).exp()


class Slices(UserModel):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.layers[1:](self.first(self.layers[:1](x))))


class Asserts(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 4
        return self.second(self.first(x))


class RemembersFeatures(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        self.features = self.first(x)
        return self.second(self.features)


class InputUsedTwice(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + x


class ShapeOfTheInput(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        return self.second(self.first(x)).view(batch, -1)


class CalledTwice(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.first(x)))


class NeverCalled(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(x)


class Branches(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x) if x.sum() > 0 else x


class BranchesInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = Branches(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


class MakesATensor(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) + torch.arange(4))


class DrawsNoise(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * float(torch.rand(())))


class SkipsAtRandom(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * random.random())


class StopsGradients(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.first(x)
        return self.second(x)


class SwitchesAutocastOff(UserModel):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.first(x)
        return self.second(x)


class HoldsAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class ReturnsTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.last = nn.GRU(4, 4, batch_first=True), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.recurrent(x)[0])
