"""The plan of a stage's memory: against the allocator, divided among processes, fitted to a size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from launch.cli import app
from rnet.attacks.independent.config import IndependentConfig
from rnet.bench.allocated import peak_allocated
from rnet.config.run import RunConfig, load_config
from rnet.data.loading import load_dataset_once
from rnet.engines.config import EngineConfig
from rnet.errors import UserError
from rnet.models.config import ModelConfig
from rnet.planning import choice, fit
from rnet.planning.fit import bytes_of, fit_stage
from rnet.planning.live import WORKING, LiveBytes
from rnet.planning.plan import BUFFERS, DATA, Plan, divided_parts, plan_stage
from rnet.planning.planned_run import GRADIENTS, OPTIMIZER
from rnet.planning.simulate import COPIES, PARAMETERS, VICTIM, Simulated
from rnet.stages.stages import ensure
from rnet.stages.store import Store

RUN = [
    "dataset=digits", "dataset.train_size=128", "dataset.test_size=64", "train.epochs=1", "train.batch_size=64",
    "attack=removalnet", "attack.iterations=2", "attack.batch_size=64", "attack.substitute_size=64",
    "attack.num_poison_steps=2", "defense.num_queries=16", "defense.steps=8",
]  # fmt: skip


def test_a_plan_is_within_15_percent_of_what_the_allocator_hands_out(tmp_path: Path) -> None:
    """Each stage after its parents; what it plans first must not show in what it computes then."""
    config, store = load_config(RUN), Store(tmp_path)
    negative = replace(config, attack=IndependentConfig(seed=1000, model=ModelConfig(name="resnet8", width=24)))
    dataset = load_dataset_once(config.dataset)
    assert plan_stage("attack", negative, dataset, processes=2).batch == config.train.batch_size // 2
    for stage, of in (*((s, config) for s in ("train", "attack", "fingerprint", "verify")), ("attack", negative)):
        plan = plan_stage(stage, of, dataset)
        with peak_allocated() as found:
            ensure(stage, of, store)
        planned = plan.total - plan.images
        assert planned == pytest.approx(found["bytes"], rel=0.15), (stage, plan)


def test_recipes_of_every_kind_are_planned(tmp_path: Path) -> None:
    """AdamW divides by what its count of steps makes, and mixtures look at their draws and at the batch."""
    recipe = ["train.optimizer=adamw", "train.mixup=0.2", "train.cutmix=1", "train.ema=0.9", "train.accumulate=2"]
    config = load_config([*RUN, *recipe, "train.crop_padding=0", "train.crop_scale=[0.5,1]", "train.rand_augment=9"])
    plan = plan_stage("train", config, load_dataset_once(config.dataset))
    with peak_allocated() as found:
        ensure("train", config, Store(tmp_path))
    assert plan.total - plan.images == pytest.approx(found["bytes"], rel=0.15), plan
    adaptive = load_config(["dataset=digits", "attack=knockoff_adaptive"])
    with pytest.raises(UserError, match="attack=knockoff cannot be planned, as what it does depends"):
        plan_stage("attack", adaptive, load_dataset_once(adaptive.dataset))


def test_parts_are_named_by_what_they_are() -> None:
    small = ["attack.batch_size=4", "attack.substitute_size=1", "dataset.test_size=1", "engine.probe_every=0"]
    config = load_config([*RUN, *small])
    plan = plan_stage("attack", config, load_dataset_once(config.dataset))
    assert plan.moment in ("forward backward", "optimizer"), plan
    weights = plan.parts[VICTIM]
    assert plan.parts[PARAMETERS] == pytest.approx(weights, rel=0.01)
    assert plan.parts[OPTIMIZER] == pytest.approx(weights, rel=0.02)  # statistics have no momentum
    assert plan.parts[COPIES] > 0.9 * weights  # folded, and rewritten for CPUs beside


def test_live_bytes_are_counted_until_they_are_freed() -> None:
    with LiveBytes() as live:
        kept = torch.ones(100)
        view = kept[:10]
        for _ in range(3):
            torch.ones(1000)
        live.belongs("mine", [view])
        with live.during("end"):
            more = torch.ones(50)
        del more
    assert live.by_owner == {WORKING: 0, "mine": 400}
    assert sum(live.moments[""].values()) == 4400
    assert live.moments["end"] == {WORKING: 200, "mine": 400}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "ddp"}, {GRADIENTS: 80}),
        ({"name": "deepspeed", "zero_stage": 1}, {OPTIMIZER: 20 + 20, BUFFERS: 80}),
        ({"name": "deepspeed", "zero_stage": 2}, {OPTIMIZER: 20 + 20, GRADIENTS: 20, BUFFERS: 80}),
        (
            {"name": "deepspeed", "zero_stage": 3, "victim": "zero3"},
            {PARAMETERS: 25, OPTIMIZER: 20, GRADIENTS: 20, VICTIM: 25, COPIES: 0, BUFFERS: 30},
        ),
        (
            {"name": "deepspeed", "zero_stage": 3, "offload": True},
            {PARAMETERS: 0, OPTIMIZER: 0, GRADIENTS: 20, COPIES: 0, BUFFERS: 30},
        ),
    ],
)  # fmt: skip
def test_engines_divide_what_they_say(settings: dict[str, Any], expected: dict[str, int]) -> None:
    alone = {PARAMETERS: 100, GRADIENTS: 70, OPTIMIZER: 80, VICTIM: 100, COPIES: 90, WORKING: 500}
    found = Simulated(moments={}, largest=10, trained=80)
    engine = EngineConfig(**settings)
    assert divided_parts(alone, found, engine, 4) == {**alone, **expected}
    more = 2 * (10 if engine.zero_stage == 3 else 20) if engine.name == "deepspeed" else 0  # of what is updated at once
    assert divided_parts(alone, found, engine, 4, stepping=True).get(BUFFERS, 0) == expected.get(BUFFERS, 0) + more


def planned_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 bytes of weights, which ZeRO-3 divides, and 100 of activations, which micro-batches do; fewer are kept."""

    def plan(stage: str, config: RunConfig, dataset: Any, processes: int = 1) -> Plan:
        engine = config.engine
        weights = 100 // (processes if engine.name == "deepspeed" and engine.zero_stage == 3 else 1)
        activations = 100 // engine.accumulate // (5 if engine.activation_checkpointing else 1)
        parts = {PARAMETERS: weights, WORKING: activations}
        return Plan(stage=stage, engine="", processes=processes, batch=8, parts=parts, moment="", moments={})

    monkeypatch.setattr(fit, "plan_stage", plan)


@pytest.mark.parametrize(
    ("model", "room", "processes", "overrides", "fits"),
    [
        ("norm", 200, 1, [], True),
        ("norm", 130, 1, ["engine.activation_checkpointing=true"], True),  # its batch must stay whole
        ("bare", 130, 1, ["engine.accumulate=4"], True),
        ("bare", 105, 1, ["engine.accumulate=4", "engine.activation_checkpointing=true"], True),
        ("bare", 80, 1, ["engine.accumulate=8", "engine.activation_checkpointing=true"], False),
        ("norm", 80, 4, ["engine=zero3", "engine.activation_checkpointing=true", "engine.victim=zero3"], True),
    ],
)  # fmt: skip
def test_the_first_settings_that_fit_are_chosen(
    monkeypatch: pytest.MonkeyPatch, model: str, room: int, processes: int, overrides: Sequence[str], fits: bool
) -> None:
    planned_by_rule(monkeypatch)
    network = nn.Sequential(nn.BatchNorm2d(1)) if model == "norm" else nn.Sequential(nn.Conv2d(1, 1, 1))
    monkeypatch.setattr(fit, "build_model", lambda *args, **kwargs: network)
    config = load_config(["dataset=digits", "attack=removalnet", "attack.batch_size=8"])
    if processes > 1:
        config = replace(config, attack=replace(config.attack, batch_size=4))
    found = fit_stage("attack", config, load_dataset_once(config.dataset), processes, room)
    assert (sorted(found.overrides), found.fits) == (sorted(overrides), fits)


@pytest.mark.parametrize(
    ("settings", "overrides"),
    [
        ([], ["engine.accumulate=2", "engine.activation_checkpointing=true"]),  # the recipe's own pieces stay
        (["engine.compile=true"], ["engine.accumulate=2"]),  # which checkpointing and DeepSpeed exclude
    ],
)
def test_only_ways_that_can_run_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, settings: list[str], overrides: list[str]
) -> None:
    planned_by_rule(monkeypatch)
    monkeypatch.setattr(fit, "build_model", lambda *args, **kwargs: nn.Conv2d(1, 1, 1))
    recipe = ["train.batch_size=8", "train.accumulate=4", "engine.device=cpu"]
    config = load_config(["dataset=digits", *recipe, *settings])
    negative = replace(config, attack=IndependentConfig())
    dataset = load_dataset_once(config.dataset)
    for stage, one in (("train", config), ("attack", negative)):
        found = fit_stage(stage, one, dataset, 1, 80)
        assert (found.overrides, found.fits) == (overrides, False)
        with pytest.raises(UserError, match=r"train.batch_size=8 cannot be divided into 12 shares"):
            fit_stage(stage, one, dataset, 3, 80)


@pytest.mark.parametrize(
    ("text", "size"), [("40GiB", 40 * 2**30), ("1.5gb", 1_500_000_000), ("512", 512), ("2TiB", 2**41)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "many", "0GiB", "-1GB", "3 apples"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--fit .* is no size of memory"):
        bytes_of(text)


@pytest.mark.parametrize(("room", "status"), [("1GB", 0), ("100KB", 1)])
def test_the_command_ends_with_status_1_where_nothing_fits(
    monkeypatch: pytest.MonkeyPatch, room: str, status: int
) -> None:
    monkeypatch.setattr("rnet.stages.memory.peak_memory", lambda: {"host": 10**9})
    words = ["plan", "memory", "stage=verify", "dataset=digits", "model=resnet8", "--fit", room, "--json"]
    found = CliRunner().invoke(app, [*words, "engine.device=cpu"])
    assert found.exit_code == status, found.output
    said = json.loads(found.stdout)
    (row,) = said["rows"]
    assert said["baseline"] + row["plan"]["parts"][DATA] == 10**9  # images that are there are counted once
    assert row["fits"] == (status == 0)
    assert row["total"] > 300_000  # its weights alone


@pytest.mark.parametrize("more", [[], ["--fit", "1GiB"]])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["processes=3", "train.batch_size=64"], "train.batch_size=64 cannot be divided into 3 processes"),
        (["engine.accumulate=2"], "engine.accumulate=2 would change the statistics of this network's batch norm"),
        (["engine=plain", "processes=2"], "engine=plain"),
        (["engine.offload=true"], "engine.offload=true needs engine=deepspeed"),
    ],
)
def test_no_plan_is_shown_of_what_would_not_run(words: list[str], message: str, more: list[str]) -> None:
    words = ["plan", "memory", "stage=train", "dataset=digits", "model=resnet8", "engine.device=cpu", *words, *more]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2
    assert message in found.output


@pytest.mark.parametrize(
    ("memory", "name", "stage", "victim"),
    [(10**12, "ddp", 2, "replica"), (900_000, "ddp", 2, "replica"), (500_000, "deepspeed", 3, "zero3")],
)
def test_auto_divides_what_would_not_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, memory: int, name: str, stage: int, victim: str
) -> None:
    parts = {WORKING: 800_000, DATA: 300_000}  # images are there already
    plan = Plan(stage="attack", engine="", processes=2, batch=1, parts=parts, moment="", moments={})
    monkeypatch.setattr(choice, "world_size", lambda: 2)
    monkeypatch.setattr(choice, "device_memory", lambda device: memory)
    monkeypatch.setattr(choice, "plan_stage", lambda *args: plan)
    monkeypatch.setattr(choice, "same_on_all", lambda value: value)
    config = load_config(["dataset=digits", "engine.device=cpu"])
    with caplog.at_level("INFO"):
        found = choice.decided_engine("attack", config, load_dataset_once(config.dataset), nn.Linear(100, 400))
    assert (found.name, found.zero_stage, found.victim) == (name, stage, victim)
    assert ("engine=auto" in caplog.text) == (memory < 10**12)  # without a word where no division could help


@pytest.mark.parametrize(("memory", "name"), [(730_000, "ddp"), (710_000, "deepspeed")])
def test_auto_goes_by_the_weights_where_no_plan_can_be_made(
    monkeypatch: pytest.MonkeyPatch, memory: int, name: str
) -> None:
    """161,600 bytes, four times: they fit into nine tenths of the one memory and not into those of the other."""

    def no_plan(*args: object) -> Plan:
        raise UserError("the attack depends on the images")

    monkeypatch.setattr(choice, "world_size", lambda: 2)
    monkeypatch.setattr(choice, "device_memory", lambda device: memory)
    monkeypatch.setattr(choice, "plan_stage", no_plan)
    monkeypatch.setattr(choice, "same_on_all", lambda value: value)
    config = load_config(["dataset=digits", "engine.device=cpu"])
    found = choice.decided_engine("attack", config, load_dataset_once(config.dataset), nn.Linear(100, 400))
    assert found.name == name


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("", {}, 4096),
        ("0::/job/step", {"job": ("memory.max", "3000"), "job/step": ("memory.max", "max")}, 3000 - 1000 + 300),
        ("0::/job/step", {"job": ("memory.max", "9000"), "job/step": ("memory.max", "500")}, 0),
        ("0::/", {"": ("memory.max", "100000")}, 4096),
        ("3:cpu,memory:/job", {"memory/job": ("memory.limit_in_bytes", "2000")}, 2000 - 1000 + 300),
        ("3:cpu:/job", {"job": ("memory.max", "2000")}, 4096),
    ],
)
def test_memory_is_what_the_host_and_all_control_groups_leave(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: str, limits: dict[str, tuple[str, str]], expected: int
) -> None:
    """Each group has used 1000 bytes, of which 300 are of files that can be forgotten."""
    monkeypatch.setattr(choice, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(choice, "_GROUPS", tmp_path / "groups")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable: 4 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for folder, (name, limit) in limits.items():
        group = tmp_path / "groups" / folder
        group.mkdir(parents=True, exist_ok=True)
        (group / name).write_text(limit)
        (group / ("memory.current" if name == "memory.max" else "memory.usage_in_bytes")).write_text("1000\n")
        (group / "memory.stat").write_text("anon 700\ninactive_file 300\ntotal_inactive_file 300\n")
    assert choice._available() == expected
