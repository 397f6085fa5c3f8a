"""Engines in one process: what they refuse, what they guard, what they put back."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from rnet.cutting.split import SplitModel
from rnet.engines.base import Engine
from rnet.engines.choice import build_engine, check_batch, check_engine, resolve_engine
from rnet.engines.compiled import compiled_where_possible
from rnet.engines.config import EngineConfig
from rnet.engines.ddp import DDPEngine
from rnet.engines.plain import PlainEngine
from rnet.errors import UserError
from tests.engines.cells import network

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ONE, TWO = 1, 2  # processes


@pytest.fixture(scope="module", autouse=True)
def process_group_of_one() -> Iterator[None]:
    """What DDP needs to exist."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def made(engine: type[Engine], model: nn.Module, **settings: Any) -> Engine:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return engine(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0), **settings)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("settings", "precision", "processes", "device", "message"),
    [
        ({"name": "dpp"}, "fp32", ONE, CPU, "engine='dpp'.*ddp"),
        ({"name": "plain"}, "fp32", TWO, CPU, "engine=plain is one process, but 2 were started; use engine=ddp"),
        ({"name": "deepspeed", "zero_stage": 4}, "fp32", TWO, CPU, "engine.zero_stage=4 must be 0, 1, 2 or 3"),
        ({"victim": "zero2"}, "fp32", TWO, CPU, "engine.victim='zero2'.*zero3"),
        ({"victim": "zero3"}, "fp32", ONE, CPU, "engine.victim=zero3 divides the victim among processes"),
        ({"offload": True, "name": "ddp"}, "fp32", TWO, CPU, "engine.offload=true needs engine=deepspeed"),
        ({"backend": "nccl"}, "fp32", TWO, CPU, "engine.backend=nccl needs CUDA devices; use gloo or auto"),
        ({"name": "deepspeed"}, "fp16", TWO, CUDA, "precision=fp16 is not supported with engine=deepspeed"),
        ({"name": "deepspeed", "compile": True}, "fp32", TWO, CPU, "engine.compile=true.*use engine=ddp"),
        ({"compile": True, "activation_checkpointing": True}, "fp32", ONE, CPU, "exclude each other; choose one"),
        ({"accumulate": 0}, "fp32", ONE, CPU, "engine.accumulate=0 must be at least 1"),
        ({"log_every": 0}, "fp32", ONE, CPU, "engine.log_every=0 must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(
    settings: dict[str, Any], precision: str, processes: int, device: torch.device, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_engine(EngineConfig(**settings), precision, processes, device)


def test_fp16_is_refused_on_a_cpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rnet.engines.choice.cpu_has_fp16", lambda: False)
    with pytest.raises(UserError, match=r"precision=fp16 needs a GPU.*use precision=bf16 or fp32"):
        check_engine(EngineConfig(), "fp16", ONE, CPU)


def test_batches_must_be_divisible_among_processes_and_micro_batches() -> None:
    with pytest.raises(UserError, match=r"attack.batch_size=33 cannot be divided into 2 processes.*e.g. 34"):
        check_batch(EngineConfig(), "attack.batch_size", 33, linear(), TWO)
    with pytest.raises(UserError, match=r"train.batch_size=34 cannot be divided into 4 shares.*e.g. 36"):
        check_batch(EngineConfig(accumulate=2), "train.batch_size", 34, linear(), TWO)
    check_batch(EngineConfig(accumulate=2), "train.batch_size", 36, linear(), TWO)


def test_accumulation_is_refused_with_batch_norm_whose_statistics_it_would_change() -> None:
    with pytest.raises(UserError, match=r"engine.accumulate=2 would change the statistics.*activation_checkpointing"):
        check_batch(EngineConfig(accumulate=2), "train.batch_size", 32, network("norm", 0)[0], ONE)


def test_auto_is_plain_on_one_process_and_ddp_on_several() -> None:
    auto = EngineConfig()
    assert resolve_engine(auto, 1).name == "plain"
    assert resolve_engine(replace(auto, name="ddp"), 1).name == "plain"
    assert resolve_engine(auto, 2).name == "ddp"
    assert resolve_engine(replace(auto, name="deepspeed"), 2).name == "deepspeed"


@pytest.mark.parametrize("engine", [PlainEngine, DDPEngine])
def test_a_step_out_of_order_is_an_error_not_a_wrong_gradient(engine: type[Engine]) -> None:
    model = linear()
    made_engine = made(engine, model)
    with pytest.raises(RuntimeError, match="did not come through forward"):
        made_engine.backward(model(torch.ones(1, 3)).sum())
    made_engine.forward(torch.ones(1, 3))
    with pytest.raises(RuntimeError, match="second training forward"):
        made_engine.forward(torch.ones(1, 3))


def test_an_unwrapped_training_forward_of_one_of_several_processes_is_refused() -> None:
    model = linear()
    engine = made(DDPEngine, model)
    engine.world_size = 2  # as the guard sees it
    with pytest.raises(RuntimeError, match="unwrapped model"):
        model(torch.ones(1, 3))
    engine.backward(engine.forward(torch.ones(1, 3)).sum())
    with torch.no_grad():
        model(torch.ones(1, 3))
    model.eval()
    model(torch.ones(1, 3))


def test_a_loss_of_a_part_of_the_model_is_an_error_in_ddp() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.first(x), self.second(x)

    engine = made(DDPEngine, Two())
    with pytest.raises(RuntimeError, match=r"second.weight, second.bias got no gradient"):
        engine.backward(engine.forward(torch.ones(1, 3))[0].sum())


def test_micro_batches_add_up_to_the_batch() -> None:
    x_B3, y_B = torch.randn(8, 3), torch.randint(0, 2, (8,))
    states: list[tuple[Tensor, Tensor]] = []
    for accumulate in (1, 4):
        engine = made(PlainEngine, linear(), accumulate=accumulate)

        def loss(rows: slice, engine: Engine = engine) -> tuple[Tensor, dict[str, Tensor]]:
            found = nn.functional.cross_entropy(engine.forward(x_B3[rows]), y_B[rows])
            return found, {"rows": torch.tensor(float(rows.stop - rows.start))}

        totals = engine.descend(loss, 8)
        assert totals["rows"] == 8 / accumulate
        states.append((totals["loss/total"], engine.unwrapped.get_parameter("weight").detach().clone()))
    for one, four in zip(*states, strict=True):
        torch.testing.assert_close(one, four)


def test_micro_batches_of_unequal_size_are_refused() -> None:
    engine = made(PlainEngine, linear(), accumulate=3)
    with pytest.raises(UserError, match=r"engine.accumulate=3 does not divide the 8 samples"):
        engine.descend(lambda rows: (torch.zeros(()), {}), 8)


def test_gradients_are_clipped_to_the_norm_given() -> None:
    start = linear().weight.detach().clone()
    moved = []
    for clip_norm in (None, 1e-3):
        model = linear()
        engine = made(PlainEngine, model, clip_norm=clip_norm)
        engine.descend(lambda rows, e=engine: (100 * e.forward(torch.ones(1, 3)).sum(), {}), 1)
        moved.append(float((model.weight.detach() - start).norm()))
    assert moved[0] > 1
    assert moved[1] <= 0.1 * 1e-3 * 1.001  # the learning rate times the norm, of weight and bias together


def test_training_goes_on_where_the_compiler_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any) -> None:
        raise TorchDynamoException("no compiler here\nand more")

    monkeypatch.setattr(torch, "compile", lambda function: refuse)
    call = compiled_where_possible(lambda x: 2 * x)
    assert [call(1), call(2)] == [2, 4]
    assert caplog.text.count("engine.compile=true: not compiled (no compiler here)") == 1
    monkeypatch.setattr(torch, "compile", lambda function: function)
    with pytest.raises(ZeroDivisionError):  # an error of the function is not taken for the compiler's
        compiled_where_possible(lambda x: 1 / x)(0)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [PlainEngine, DDPEngine])
def test_a_compiled_split_model_takes_the_same_step(engine: type[Engine]) -> None:
    states = []
    for compiled in (False, True):
        model, layer = network("flat", seed=1)
        split = SplitModel(model.train(), layer)
        trained = made(engine, split, compiled=compiled)
        x_BCHW = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

        def loss(rows: slice, e: Engine = trained, x_BCHW: Tensor = x_BCHW) -> tuple[Tensor, dict[str, Tensor]]:
            logits_BK, z = e.forward(x_BCHW[rows], return_features=True)
            return logits_BK.square().mean() + z.mean(), {}

        trained.descend(loss, 4)
        trained.finish()
        assert "head" not in vars(split)
        states.append(copy.deepcopy(model.state_dict()))
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value)


def test_the_engine_of_a_configuration_says_what_it_is() -> None:
    model = network("norm", 0)[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    config = EngineConfig(name="plain", activation_checkpointing=True)
    engine = build_engine(config, model, optimizer, schedule, precision="bf16", clip_norm=None)
    assert (
        engine.describe() == f"plain, 1 process, cpu, bf16, activations of {len(engine.checkpointed)} blocks recomputed"
    )
    assert engine.checkpointed


def test_checkpointing_without_effect_is_said(caplog: pytest.LogCaptureFixture) -> None:
    made(PlainEngine, linear(), activation_checkpointing=True)
    assert "engine.activation_checkpointing=true has no effect" in caplog.text


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
        ),
    ],
)
def test_fp16_scales_the_loss_and_steps_that_overflow_do_not_count(device: str) -> None:
    """A gradient of 1e-8 is below float16's smallest number, scaled it is not. The first scale is too large for 1."""
    model = nn.Linear(64, 64).to(device)
    start = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    engine = PlainEngine(model, optimizer, schedule, precision="fp16")
    x_B64 = torch.ones(4, 64, device=device)

    def gradient_of(size: float) -> None:
        engine.descend(lambda rows: (size * engine.forward(x_B64).float().sum() / 64 / 4, {}), 4)

    for size, rate, moves in ((100.0, 0.1, False), (1e-6, 0.05, True), (1.0, 0.025, True)):
        before = model.weight.detach().clone()
        gradient_of(size)
        assert engine.learning_rate == pytest.approx(rate)
        assert torch.equal(model.weight, before) != moves
    assert not torch.equal(model.weight, start)
    assert model.weight.isfinite().all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_fp16_the_scale_is_never_asked_for(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a number on the device."""
    model = linear()
    engine = made(PlainEngine, model, precision=precision)
    monkeypatch.setattr(torch.amp.GradScaler, "get_scale", None)
    engine.descend(lambda rows: (engine.forward(torch.ones(1, 3)).float().sum(), {}), 1)
    assert engine.learning_rate == pytest.approx(0.1)


def test_deepspeed_compiles_nothing(tmp_path: Path) -> None:
    """It needs no compiler then, and no lock of a build that was killed stops it."""
    stale = tmp_path / "deepspeed_shm_comm" / "lock"
    stale.parent.mkdir()
    stale.touch()
    code = (
        "import torch; from rnet.engines.deepspeed import import_deepspeed; import_deepspeed(torch.device('cpu'));"
        "from deepspeed.comm.torch import build_shm_op; assert build_shm_op() is None"
    )
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path)}, check=True, timeout=300
    )
    assert [*tmp_path.rglob("*")] == [stale.parent, stale]
