"""The lower level: on whatever it runs, it computes the same, sees the weights as they are, and touches nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rnet.attacks.removalnet.attack import RemovalNet
from rnet.cutting.split import SplitModel
from rnet.data.images import Dataset
from rnet.data.loading import load_dataset
from rnet.draws import BatchDraws
from rnet.engines.config import EngineConfig
from rnet.engines.lower_level import LowerLevel, Network, on_frozen_copy, on_surrogate
from rnet.engines.plain import PlainEngine
from rnet.engines.recording import Function, Replayer
from rnet.rewrites import tiny_maps
from rnet.rewrites.cpu import small_maps
from tests.attacks.removalnet.prepared import CONFIG, prepared
from tests.engines.cells import network
from tests.tiny_runs import tiny

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(tiny().dataset)


@pytest.fixture
def split() -> SplitModel:
    model, layer = network("norm", seed=3)
    return SplitModel(model.train(), layer)


def batch(seed: int = 0, size: int = 4, device: str = "cpu") -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x_BCHW, y_B = torch.rand(size, 1, 8, 8, generator=draw), torch.randint(10, (size,), generator=draw)
    return x_BCHW.to(device), y_B.to(device)


def loss(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits_BK, y_B, reduction="sum")


def descended(net: Network, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    """A lower level in small: two steps down the gradient of z, and the logits there."""
    z = net.head(x_BCHW).float()
    for _ in range(2):
        z = z - 0.1 * net.gradient(loss, z, y_B)
    return z, net.tail(z)


def by_autograd(split: SplitModel, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    split.eval()
    z = split.head(x_BCHW)
    for _ in range(2):
        z = z.detach().requires_grad_(True)
        z = z - 0.1 * torch.autograd.grad(loss(split.tail(z), y_B), z)[0]
    return z.detach(), split.tail(z).detach()


@contextmanager
def nothing_gathered() -> Iterator[None]:
    yield


MADE: dict[str, Callable[[SplitModel], LowerLevel]] = {
    "frozen copy": lambda split: on_frozen_copy(split, batch()[0]),
    "rewritten copy": lambda split: on_frozen_copy(split, batch()[0], rewritten_as=small_maps.KINDS),
    "micro-batches": lambda split: on_frozen_copy(split, batch()[0], chunks=2),
    "surrogate": lambda split: on_surrogate(split, gathered=nothing_gathered),
}


@pytest.mark.parametrize("name", MADE)
def test_it_computes_what_autograd_does_and_follows_the_weights(
    name: str, split: SplitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rnet.rewrites.cpu.small_maps.FEWEST_CHANNELS", 8)
    lower = MADE[name](split)
    for seed in range(2):
        before = {key: value.clone() for key, value in split.state_dict().items()}
        found = lower(descended, *batch(seed))
        assert all(torch.equal(before[key], value) for key, value in split.state_dict().items())
        assert all(parameter.grad is None for parameter in split.parameters())
        assert not any(result.requires_grad for result in found)
        for result, expected in zip(found, by_autograd(split, *batch(seed)), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            for parameter in split.parameters():
                parameter.mul_(1.1)


def test_parts_of_a_batch_go_through_the_tail_one_by_one(split: SplitModel) -> None:
    net = Network(split.eval(), chunks=4)
    sizes = []

    def noted(logits_BK: Tensor, y_B: Tensor) -> Tensor:
        sizes.append(len(y_B))
        return loss(logits_BK, y_B)

    x_BCHW, y_B = batch(size=8)
    gradient = net.gradient(noted, split.head(x_BCHW), y_B)
    assert sizes == [2, 2, 2, 2]
    torch.testing.assert_close(gradient, Network(split).gradient(loss, split.head(x_BCHW), y_B), rtol=1e-4, atol=1e-6)


def test_the_frozen_copy_leaves_the_surrogate_in_train_mode(split: SplitModel) -> None:
    on_frozen_copy(split, batch()[0])(descended, *batch())
    assert all(module.training for module in split.model.modules())


def test_contexts_are_opened_around_the_surrogate(split: SplitModel) -> None:
    opened = []

    @contextmanager
    def gathered() -> Iterator[None]:
        opened.append(True)
        yield
        opened.append(False)

    def looks(net: Network, x_BCHW: Tensor) -> Tensor:
        assert opened == [True]
        return net.head(x_BCHW)

    on_surrogate(split, gathered=gathered)(looks, batch()[0])
    assert opened == [True, False]


def test_a_precision_holds_for_all_of_it(split: SplitModel) -> None:
    def autocast() -> Any:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    found = on_frozen_copy(split, batch()[0], autocast=autocast)(lambda net, x: net.tail(net.head(x)), batch()[0])
    assert found.dtype == torch.bfloat16


class Tape:
    """In place of a CUDA graph: calls the function again on the inputs it was recorded with, as a replay does."""

    recordings = 0

    def __init__(self, function: Function, given: Sequence[Tensor]) -> None:
        type(self).recordings += 1
        self.function, self.inputs = function, [tensor.clone() for tensor in given]

    def __call__(self, *given: Tensor) -> Any:
        for own, new in zip(self.inputs, given, strict=True):
            own.copy_(new)
        return self.function(*self.inputs)


def test_a_recording_is_replayed_with_the_contents_of_each_batch(
    split: SplitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tape, "recordings", 0)
    recorded = on_frozen_copy(split, batch()[0], replayer=Replayer(record=Tape))
    called = on_frozen_copy(split, batch()[0], replayer=Replayer("not asked for"))
    for seed in range(3):
        for found, expected in zip(recorded(descended, *batch(seed)), called(descended, *batch(seed)), strict=True):
            assert torch.equal(found, expected)
    assert Tape.recordings == 1
    recorded(descended, *batch(size=2))
    recorded(lambda net, x_BCHW, y_B: net.head(x_BCHW), *batch())
    assert Tape.recordings == 3, "another size and another function"
    assert recorded.describe().startswith("replayed as a CUDA graph, 9 batch norms folded")


def test_a_recording_that_computes_something_else_is_not_used(split: SplitModel) -> None:
    def wrong(function: Function, given: Sequence[Tensor]) -> Function:
        return lambda *tensors: tuple(result + 1 for result in function(*tensors))

    lower, called = (
        on_frozen_copy(split, batch()[0], replayer=replayer) for replayer in (Replayer(record=wrong), Replayer("no"))
    )
    for _ in range(2):
        assert torch.equal(lower(descended, *batch())[0], called(descended, *batch())[0])
    assert lower.describe().startswith("no CUDA graph (its replay computes something else)")


def test_a_few_signs_that_rounding_decides_are_no_other_result() -> None:
    def few(function: Function, given: Sequence[Tensor]) -> Function:
        return lambda x: torch.cat([function(x)[:-1], function(x)[-1:] + 0.02])

    replayer = Replayer(record=few)
    replayer("key", torch.clone, [torch.ones(1000)])
    assert not replayer.obstacle


def test_what_cannot_be_recorded_is_called_and_the_reason_told(split: SplitModel) -> None:
    def refuse(function: Function, given: Sequence[Tensor]) -> Function:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    lower = on_frozen_copy(split, batch()[0], replayer=Replayer(record=refuse))
    lower(descended, *batch())
    assert lower.describe().startswith("no CUDA graph (operation not permitted when stream is capturing)")


def test_a_loss_of_a_module_is_compiled_with_the_tail_and_one_of_the_moment_is_not(
    split: SplitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once each, however often gradients are asked for, and with the same gradients."""
    compiled: list[Any] = []

    def watched(function: Any, **settings: Any) -> Any:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", watched)
    x_BCHW, y_B = batch()
    network, plain = Network(split.eval(), compiled=True), Network(split)
    with torch.no_grad():
        z = network.head(x_BCHW)
    for _ in range(2):
        found = [network.gradient(each, z, y_B) for each in (loss, lambda logits, y: loss(logits, y))]
        assert all(torch.equal(gradient, plain.gradient(loss, z, y_B)) for gradient in found)
    assert len(compiled) == 2
    assert compiled[0](z, y_B).ndim == 0, "the loss"
    assert compiled[1] == split.tail


@pytest.mark.parametrize(
    ("settings", "device", "processes", "word"),
    [
        ({}, "cpu", 1, "cpu"),
        ({"cuda_graph": False}, "cuda", 1, "cuda_graph=false"),
        ({}, "cuda", 2, "talk"),
        ({}, "cuda", 1, ""),
    ],
)
def test_why_there_is_no_graph(
    split: SplitModel, settings: dict[str, bool], device: str, processes: int, word: str
) -> None:
    engine = made(split, **settings)
    engine.device, engine.world_size = torch.device(device), processes
    found = engine._graph_obstacle()
    assert word in found
    assert bool(word) == bool(found)


@pytest.mark.parametrize(
    ("settings", "rewritten"),
    [({}, "5 convolutions"), ({"precision": "bf16"}, "1 convolution "), ({"quicken": False}, "")],
)
def test_when_the_copy_is_rewritten(
    split: SplitModel, settings: dict[str, Any], rewritten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rnet.rewrites.cpu.small_maps.FEWEST_CHANNELS", 8)
    lower = made(split, **settings).lower_level(batch()[0])
    assert rewritten in lower.describe()
    assert ("rewritten" in lower.describe()) == bool(rewritten)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, tiny_maps.KINDS), ({"precision": "bf16"}, tiny_maps.KINDS), ({"quicken": False}, ())],
)
def test_what_convolutions_become_on_cuda(split: SplitModel, settings: dict[str, Any], expected: Any) -> None:
    engine = made(split, **settings)
    engine.device = torch.device("cuda")
    assert engine._rewritings() == expected


def made(split: SplitModel, **settings: Any) -> PlainEngine:
    optimizer = torch.optim.SGD(split.parameters(), lr=0.1)
    return PlainEngine(split, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer), **settings)


def test_the_first_step_says_what_was_chosen(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    victim, layer = network("norm", seed=3)
    _, ready = prepared(dataset, victim, layer, tmp_path, EngineConfig(name="plain"), quiet=False)
    with caplog.at_level(logging.INFO):
        ready.step(0)
        ready.step(1)
    lines = [record.getMessage() for record in caplog.records if "lower level" in record.getMessage()]
    expected = "no CUDA graph (the device is a cpu), 9 batch norms folded, 1 convolution rewritten, not compiled"
    assert len(lines) == 1
    assert f"test: lower level: {expected}" in lines[0]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_a_recorded_attack_computes_what_a_called_one_does(device: str, dtype: torch.dtype | None) -> None:
    """The whole of it, draws included, whose step is a tensor."""
    model, layer = network("norm", seed=3)
    split = SplitModel(model.to(device), layer)
    attack = RemovalNet(CONFIG)

    def autocast() -> Any:
        return torch.autocast(device, dtype=dtype, enabled=dtype is not None)

    def targets(net: Network, x_BCHW: Tensor, y_B: Tensor, ids_B: Tensor, t: Tensor) -> Any:
        return attack.lower_level(net, x_BCHW, y_B, BatchDraws(seed=1, step=t, sample_ids_B=ids_B))

    example = batch(device=device)[0]
    replayer = Replayer() if device == "cuda" else Replayer(record=Tape)
    recorded = on_frozen_copy(split, example, autocast=autocast, replayer=replayer)
    called = on_frozen_copy(split, example, autocast=autocast, replayer=Replayer("not asked for"))
    seen = []
    for t in range(3):
        inputs = (*batch(t, device=device), torch.arange(4, device=device), torch.tensor(t, device=device))
        found, expected = recorded(targets, *inputs), called(targets, *inputs)
        for result, other in zip(found, expected, strict=True):
            assert torch.equal(result, other)
        seen.append(expected[0].clone())
    assert recorded.describe().startswith("replayed as a CUDA graph")
    assert not torch.allclose(seen[0], seen[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_step_never_waits_for_the_device(
    dataset: Dataset, tmp_path: Path, cuda_graph: bool, caplog: pytest.LogCaptureFixture
) -> None:
    victim, layer = network("norm", seed=3)
    config = EngineConfig(name="plain", cuda_graph=cuda_graph)
    with caplog.at_level(logging.INFO):
        _, ready = prepared(dataset, victim.cuda(), layer, tmp_path, config, device="cuda", quiet=False)
        for t in range(2):  # compiles, records
            ready.step(t)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for t in range(2, 5):
            ready.step(t)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert ("replayed as a CUDA graph" in caplog.text) == cuda_graph


@pytest.mark.slow
def test_a_compiled_tail_gives_the_gradients_of_a_called_one(split: SplitModel) -> None:
    lower = on_frozen_copy(split, batch()[0], uncompiled="")
    for seed in range(2):
        found = lower(descended, *batch(seed))
        assert lower.describe().endswith(", compiled")
        for result, expected in zip(found, by_autograd(split, *batch(seed)), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            for parameter in split.parameters():
                parameter.mul_(1.1)


def test_a_tail_that_cannot_be_compiled_is_called_and_the_reason_told(
    split: SplitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise NotImplementedError("no compiler here\nand more")

    monkeypatch.setattr(torch, "compile", lambda function, **_: refuse)
    said: list[str] = []
    lower = on_frozen_copy(split, batch()[0], uncompiled="", say=said.append)
    for result, expected in zip(lower(descended, *batch()), by_autograd(split, *batch()), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    assert "not compiled (no compiler here); its first call took" in said[0]


def test_an_error_of_the_attack_is_not_taken_for_the_compilers(split: SplitModel) -> None:
    def wrong(net: Network, x_BCHW: Tensor) -> Tensor:
        raise ZeroDivisionError("the attack's own")

    with pytest.raises(ZeroDivisionError, match="the attack's own"):
        on_frozen_copy(split, batch()[0], uncompiled="")(wrong, batch()[0])
