"""The latent loop: plain, fused and recorded, it computes the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rnet.attacks.removalnet import bilevel
from rnet.attacks.removalnet.latent_loop import Function, LatentLoop
from rnet.data.images import Dataset
from rnet.data.registry import load_dataset
from rnet.draws import channel_permutations
from rnet.engines.choice import fused_operations, graph_obstacle, small_maps_obstacle
from rnet.engines.config import EngineConfig
from rnet.kernels.probe import problem_on
from tests.attacks.removalnet.prepared import prepared
from tests.engines.cells import network
from tests.tiny_runs import tiny

STEPS = 4


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(tiny().dataset)


def inputs(*shape: int, axis: int, seed: int = 0, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, u, labels and shuffles of a batch."""
    draw = torch.Generator().manual_seed(seed)
    z, u = torch.randn(shape, generator=draw), torch.rand(shape, generator=draw)
    y_B = torch.randint(3, (shape[0],), generator=draw)
    ids_B = torch.arange(shape[0])
    perms = channel_permutations(seed, "shuffle", 0, ids_B, STEPS + 1, shape[axis], 0.5, device=device)
    return z.to(device), u.to(device), y_B.to(device), perms


def tail_of(*shape: int, device: str = "cpu") -> Callable[[Tensor], Tensor]:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape[1:]).numel(), 16), nn.Tanh(), nn.Linear(16, 3)).to(
        device
    )


CASES = [((4, 6, 3, 5), 1), ((4, 7, 6), 2), ((3, 8), 1), ((4, 5, 5, 6), 3)]


@pytest.mark.parametrize(("shape", "axis"), CASES)
@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("chunks", [1, 2])
def test_fused_operations_take_the_plain_steps(shape: tuple[int, ...], axis: int, shuffled: bool, chunks: int) -> None:
    if shape[0] % chunks:
        pytest.skip("chunks are equal")
    z, u, y_B, perms = inputs(*shape, axis=axis)
    found = [
        LatentLoop(fused=fused)(
            tail_of(*shape), z, u, y_B, perms if shuffled else None, axis, steps=STEPS, chunks=chunks
        )
        for fused in (False, True)
    ]
    assert torch.allclose(*found, rtol=0, atol=1e-6)
    assert not torch.allclose(found[0], bilevel.latent_start(z, u, perms[0] if shuffled else None, axis), atol=1e-3)


def test_without_steps_there_is_only_the_start() -> None:
    z, u, y_B, perms = inputs(4, 6, 3, 3, axis=1)
    for fused in (False, True):
        found = LatentLoop(fused=fused)(tail_of(4, 6, 3, 3), z, u, y_B, perms[:1], 1, steps=0)
        assert torch.equal(found, bilevel.latent_start(z, u, perms[0], 1))


def test_the_cosine_distance_has_no_fused_operation() -> None:
    loop = LatentLoop("cosine", fused=True)
    assert not loop.fused
    assert loop.describe() == "plain torch operations, no CUDA graph (not asked for)"


class Tape:
    """In place of a CUDA graph: calls the function again on the inputs it was recorded with, as a replay does."""

    recordings = 0

    def __init__(self, function: Function, given: list[Tensor]) -> None:
        type(self).recordings += 1
        self.function, self.inputs = function, [tensor.clone() for tensor in given]

    def __call__(self, *given: Tensor) -> Tensor:
        for own, new in zip(self.inputs, given, strict=True):
            own.copy_(new)
        return self.function(*self.inputs)


@pytest.mark.parametrize("fused", [False, True])
def test_a_recording_is_replayed_with_the_contents_of_each_batch(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tape, "recordings", 0)
    tail = tail_of(4, 6, 3, 3)
    recorded, plain = LatentLoop(fused=fused, no_graph="", record=Tape), LatentLoop(fused=fused)
    for seed in range(3):
        batch = inputs(4, 6, 3, 3, axis=1, seed=seed)
        assert torch.equal(recorded(tail, *batch, 1, steps=STEPS), plain(tail, *batch, 1, steps=STEPS))
    assert Tape.recordings == 1
    recorded(tail, *inputs(2, 6, 3, 3, axis=1), 1, steps=STEPS)  # a batch of another size
    assert Tape.recordings == 2
    assert recorded.describe().endswith("replayed as a CUDA graph")


def test_a_recording_that_computes_something_else_is_not_used() -> None:
    def wrong(function: Function, given: list[Tensor]) -> Function:
        return lambda *tensors: function(*tensors) + 1

    tail, batch = tail_of(4, 6, 3, 3), inputs(4, 6, 3, 3, axis=1)
    loop = LatentLoop(no_graph="", record=wrong)
    for _ in range(2):
        assert torch.equal(loop(tail, *batch, 1, steps=STEPS), LatentLoop()(tail, *batch, 1, steps=STEPS))
    assert loop.describe() == "plain torch operations, no CUDA graph (its replay computes another z1)"


def test_methods_of_one_model_share_a_recording_and_other_tails_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def __init__(self) -> None:
            self.module = tail_of(4, 6, 3, 3)

        def tail(self, z: Tensor) -> Tensor:
            return self.module(z)

    monkeypatch.setattr(Tape, "recordings", 0)
    loop, models = LatentLoop(no_graph="", record=Tape), [Model(), Model()]
    for model in (models[0], models[0], models[1]):
        loop(model.tail, *inputs(4, 6, 3, 3, axis=1), 1, steps=STEPS)
    assert Tape.recordings == 2


def test_what_cannot_be_recorded_is_called_and_the_reason_told() -> None:
    def refuse(function: Function, given: list[Tensor]) -> Function:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    tail, batch = tail_of(4, 6, 3, 3), inputs(4, 6, 3, 3, axis=1)
    loop = LatentLoop(no_graph="", record=refuse)
    assert torch.equal(loop(tail, *batch, 1, steps=STEPS), LatentLoop()(tail, *batch, 1, steps=STEPS))
    assert loop.describe() == "plain torch operations, no CUDA graph (operation not permitted when stream is capturing)"


@pytest.mark.parametrize(
    ("settings", "device", "whole", "word"),
    [
        ({}, "cpu", True, "cpu"),
        ({"cuda_graph": False}, "cuda", True, "cuda_graph=false"),
        ({}, "cuda", False, "talk"),
        ({}, "cuda", True, ""),
    ],
)
def test_why_there_is_no_graph(settings: dict[str, bool], device: str, whole: bool, word: str) -> None:
    found = graph_obstacle(EngineConfig(**settings), torch.device(device), whole)  # type: ignore[arg-type]
    assert word in found
    assert bool(word) == bool(found)


@pytest.mark.parametrize(
    ("settings", "device", "precision", "word"),
    [
        ({}, "cuda", "fp32", "cuda"),
        ({}, "cpu", "bf16", "precision=bf16"),
        ({"small_maps": False}, "cpu", "fp32", "small_maps=false"),
        ({}, "cpu", "fp32", ""),
    ],
)
def test_why_small_maps_are_not_rewritten(settings: dict[str, bool], device: str, precision: str, word: str) -> None:
    found = small_maps_obstacle(EngineConfig(**settings), torch.device(device), precision)  # type: ignore[arg-type]
    assert word in found
    assert bool(word) == bool(found)


@pytest.mark.parametrize(
    ("kernels", "device", "problem", "expected"),
    [
        ("auto", "cpu", "", False),
        ("auto", "cuda", "", True),
        ("auto", "cuda", "no C compiler", False),
        ("fused", "cpu", "", True),
        ("torch", "cuda", "", False),
    ],
)
def test_which_operations_are_taken(
    kernels: str, device: str, problem: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rnet.engines.choice.problem_on", lambda device: problem)
    assert fused_operations(EngineConfig(kernels=kernels), torch.device(device)) == expected


def test_the_first_step_says_what_was_chosen(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    victim, layer = network("norm", seed=3)
    attack, ready = prepared(dataset, victim, layer, tmp_path, EngineConfig(name="plain", kernels="fused"), quiet=False)
    with caplog.at_level(logging.INFO):
        ready.step(0)
        ready.step(1)
    lines = [record.getMessage() for record in caplog.records if "lower level" in record.getMessage()]
    assert len(lines) == 1
    assert f"{attack.config.num_poison_steps} steps" in lines[0]
    assert "fused operations, no CUDA graph (the device is a cpu)" in lines[0]
    assert "batch norms folded, 0 convolutions of small maps rewritten, " in lines[0]


def test_operations_are_tried_before_they_are_chosen() -> None:
    assert problem_on(torch.device("cpu")) == ""
    assert problem_on(torch.device("cuda", 17)) != "", "there is no such device"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_fused_operations_work_on_this_gpu() -> None:
    assert problem_on(torch.device("cuda", 0)) == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_cuda_graph_computes_what_calls_do(fused: bool, dtype: torch.dtype | None) -> None:
    tail = tail_of(8, 6, 9, 9, device="cuda")
    recorded, plain = LatentLoop(fused=fused, no_graph=""), LatentLoop(fused=fused)
    with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
        for seed in range(3):
            batch = inputs(8, 6, 9, 9, axis=1, seed=seed, device="cuda")
            assert torch.equal(recorded(tail, *batch, 1, steps=STEPS), plain(tail, *batch, 1, steps=STEPS))
    assert recorded.describe().endswith("replayed as a CUDA graph")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kernels", ["torch", "fused"])
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_step_never_waits_for_the_device(dataset: Dataset, tmp_path: Path, kernels: str, cuda_graph: bool) -> None:
    victim, layer = network("norm", seed=3)
    config = EngineConfig(name="plain", kernels=kernels, cuda_graph=cuda_graph)
    attack, ready = prepared(dataset, victim.cuda(), layer, tmp_path, config, device="cuda")
    for t in range(2):  # compiles, records
        ready.step(t)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for t in range(2, 5):
            ready.step(t)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(attack.loop.no_graph) != cuda_graph
