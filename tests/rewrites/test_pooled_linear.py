"""Linear layers that read once what a pool repeats for them: the same function, only where that holds."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rnet.cutting.split import SplitModel
from rnet.engines.plain import PlainEngine
from rnet.rewrites.folding import FoldedSplit
from rnet.rewrites.in_training import train_as_torch
from rnet.rewrites.pooled_linear import fold_pools, read_repeated_once


class Pooled(nn.Module):
    """VGG's ending. flatten: how features become flat. before: what the first linear layer follows."""

    def __init__(
        self,
        flatten: Callable[[Tensor], Tensor] | nn.Module,
        size: int | tuple[int, int] = 3,
        before: type[nn.Module] = nn.Dropout,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(size)
        self.flatten = flatten
        height, width = (size, size) if isinstance(size, int) else size
        self.classifier = nn.Sequential(before(), nn.Linear(5 * height * width, 6), nn.ReLU(), nn.Linear(6, 2))

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


def gradients(model: nn.Module, x_BCHW: Tensor) -> tuple[Tensor, ...]:
    """The logits, and the gradients of all parameters."""
    logits = model(x_BCHW)
    return (logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters())))


@pytest.mark.parametrize("height", [3, 9])
@pytest.mark.parametrize("flatten", [flat, from_the_second_axis, nn.Flatten()])
def test_in_training_a_repeated_position_is_read_once(
    flatten: Callable[[Tensor], Tensor], height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And several positions are read as ever."""
    torch.manual_seed(0)
    model = Pooled(flatten, (2, 4), nn.Identity).double()
    x_BCHW = torch.rand(4, 3, height, 4, dtype=torch.float64)
    expected, names = gradients(model, x_BCHW), list(model.state_dict())
    assert read_repeated_once(model, "first") == 1
    widths: list[int] = []
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda x, *rest: (widths.append(x.shape[1]), linear(x, *rest))[1])
    torch.testing.assert_close(gradients(model, x_BCHW), expected, rtol=1e-12, atol=1e-12)
    assert widths == [5 if height == 3 else 40, 6]
    assert list(model.state_dict()) == names
    train_as_torch(model)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("model", "cut"),
    [
        (Pooled(flat), "first"),  # dropout draws for each copy
        (Pooled(flat, 3, nn.Identity), "pool"),  # z would have another shape
        (Pooled(flat, 1, nn.Identity), "first"),  # nothing is repeated
        (Pooled(by_samples_and_channels, 3, nn.Identity), "first"),  # not known to be flat
    ],
)
def test_in_training_what_repeats_nothing_stays(model: Pooled, cut: str) -> None:
    assert read_repeated_once(model, cut) == 0
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("name", ["pool", "classifier.1"])
def test_a_layer_that_somebody_watches_reads_what_it_was_given(name: str) -> None:
    model = Pooled(flat, 3, nn.Identity)
    model.get_submodule(name).register_forward_hook(lambda *_: None)
    assert read_repeated_once(model, "first") == 0


@pytest.mark.parametrize("training", [True, False])
def test_a_pool_that_others_read_in_one_mode_only_stays(training: bool) -> None:
    class Twice(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            pooled = self.pool(self.second(self.first(x)))
            logits: Tensor = self.classifier(torch.flatten(pooled, 1))
            return logits + pooled.mean() if self.training == training else logits

    model = Twice(flat, 3, nn.Identity).eval()
    assert read_repeated_once(model, "first") == 0
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_engine_trains_a_split_model_so(precision: str) -> None:
    torch.manual_seed(0)
    model = Pooled(flat, 3, nn.Identity)
    x_BCHW = torch.rand(4, 3, 3, 3)
    trained = []
    for quicken in (True, False):
        split = SplitModel(copy.deepcopy(model), "first")
        optimizer = torch.optim.SGD(split.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        engine = PlainEngine(split, optimizer, schedule, precision=precision, quicken=quicken)
        assert ("forward" in vars(split.model.pool)) == quicken
        assert "forward" not in vars(FoldedSplit(split, torch.rand(1, 3, 9, 9)).split.model.pool)

        def loss(rows: slice, engine: PlainEngine = engine) -> tuple[Tensor, dict[str, Tensor]]:
            return engine.forward(x_BCHW[rows]).float().square().mean(), {}

        for _ in range(3):
            engine.descend(loss, len(x_BCHW))
        engine.finish()
        assert "forward" not in vars(split.model.pool)
        trained.append(split.state_dict())
    near = {"rtol": 1e-5, "atol": 1e-6} if precision == "fp32" else {"rtol": 0.02, "atol": 0.005}
    torch.testing.assert_close(*trained, **near)
