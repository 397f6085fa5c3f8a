"""The yardstick of the attack's benchmark computes what the attack computes, and the benchmark compares the two."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from launch.benchmark import whole_number
from rnet.attacks.removalnet.attack import RemovalNet
from rnet.attacks.removalnet.config import RemovalNetConfig
from rnet.bench.attack import _flops, bench_attack
from rnet.bench.profile import by_kind, costliest
from rnet.bench.straightforward_removalnet import straightforward_step
from rnet.data.loading import load_dataset
from rnet.draws import channel_permutations, derive_seed, uniform
from rnet.engines.config import EngineConfig
from rnet.errors import UserError
from rnet.rewrites.convolutions import quicken
from tests.attacks.removalnet.prepared import CONFIG, prepared
from tests.engines.cells import network
from tests.tiny_runs import tiny

STEPS = CONFIG.iterations


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("norm", {"quicken": False}), ("flat", {"quicken": False}), ("norm", {}), ("flat", {}),
        pytest.param("norm", {"compile": True}, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_the_attack_takes_the_steps_of_the_straightforward_program(
    kind: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folded, channels_last, vectorised and rewritten, yet the same numbers: 20 latent steps in each of 5 steps."""
    rewritten = []

    def rewrite(*arguments: Any) -> list[Any]:
        rewritten.extend(found := quicken(*arguments))
        return found

    monkeypatch.setattr("rnet.engines.lower_level.quicken", rewrite)
    monkeypatch.setattr("rnet.rewrites.cpu.small_maps.FEWEST_CHANNELS", 8)
    dataset = load_dataset(tiny().dataset)
    victim, layer = network(kind, seed=3)
    attack, ready = prepared(dataset, victim, layer, tmp_path, EngineConfig(name="plain", **settings))
    assert bool(rewritten) == settings.get("quicken", True)
    plain = attack.module(copy.deepcopy(victim).requires_grad_(True).to(memory_format=torch.contiguous_format), layer)
    optimizer = torch.optim.SGD(plain.parameters(), lr=8e-3, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=int(1.5 * STEPS))
    seed = derive_seed(1, "removalnet")
    for t in range(STEPS):
        found = ready.step(t)["loss/total"]
        batch = ready.batches(t)
        y_B = ready.transfer.answers(batch)
        with torch.no_grad():
            z = plain.eval().head(batch.x_BCHW)
        ids_B = batch.stream_ids_B
        u = uniform(seed, "latent start", t, ids_B, math.prod(z.shape[1:]), device="cpu").view(z.shape)
        perms = channel_permutations(seed, "shuffle", t, ids_B, 21, z.shape[1], 0.3, device="cpu")
        expected = straightforward_step(
            plain, optimizer, batch.x_BCHW, y_B, u, perms, temperature=20.0, alpha=0.2, beta=2.0, gamma=0.6
        )
        scheduler.step()
        assert found == pytest.approx(float(expected), rel=1e-5)
    ready.engine.finish()
    for name, value in plain.model.state_dict().items():
        own = ready.surrogate.state_dict()[name]
        assert (own - value).float().norm() <= 1e-5 * value.float().norm().clamp_min(1e-6), name


def test_operations_are_counted_once() -> None:
    """The first call of a tail looks at itself, with a pass of its own."""
    dataset = load_dataset(tiny().dataset)
    victim, layer = network("norm", seed=3)
    split, x_BCHW = RemovalNet(CONFIG).module(victim, layer), dataset.test.pixels(torch.arange(2))
    first = _flops(split, x_BCHW, steps=20)
    assert first == _flops(split, x_BCHW, steps=20)


def test_the_benchmark_has_a_row_for_each_way_and_a_ceiling() -> None:
    dataset = load_dataset(tiny().dataset)
    victim, layer = network("norm", seed=3)
    victim.requires_grad_(False)
    before = copy.deepcopy(victim.state_dict())
    rows = bench_attack(victim, dataset, CONFIG, layer=layer, precision="fp32", rounds=2, profile=3)
    assert [row["name"] for row in rows] == [
        "rnet",
        "its lower level",
        "its lower level, engine.quicken=false",
        "bare passes",
        "straightforward float32",
        "monitoring",
        "ceiling",
    ]
    for row in rows[:-1]:
        ratios = [time / own for time, own in zip(row["times_ms"], rows[0]["times_ms"], strict=True)]
        assert len(ratios) == 2
        assert (row["ratio_low"], row["ratio_high"]) == (min(ratios), max(ratios))
        assert row["ratio"] == pytest.approx(sum(ratios) / 2)
        assert row["median_ms"] == pytest.approx(sum(row["times_ms"]) / 2)
    assert 0 < rows[-2]["ratio"] < 1, "a step's share of it"
    work = [row["gflops"] * row["median_ms"] for row in rows[:-2]]
    assert work == pytest.approx([work[0], work[1], work[1], work[0], work[0]])
    assert 0.5 < work[1] / work[0] < 1, "twenty passes through the tail are most of a step"
    assert rows[-1]["gflops"] > rows[0]["gflops"] > 0
    assert rows[-1]["floor_ms"] == pytest.approx(work[0] / rows[-1]["gflops"])
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())
    assert [len(row.get("operators", ())) for row in rows] == [0, 3, 0, 0, 0, 0, 0]


def test_the_yardsticks_compute_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """rnet's own ways to compute a network are what they are there to judge."""
    torchs = Mock(wraps=nn.functional.multi_head_attention_forward)
    seen = {}

    def measure(candidates: dict[str, Any], *_: Any) -> list[dict[str, Any]]:
        for name, work in candidates.items():
            torchs.reset_mock()
            work(0)
            seen[name] = torchs.called
        return [{"name": name, "median_ms": 1.0, "spread_ms": 0.0, "times_ms": [1.0]} for name in candidates]

    monkeypatch.setattr(nn.functional, "multi_head_attention_forward", torchs)
    monkeypatch.setattr("rnet.bench.attack._measure", measure)
    victim, layer = network("attention", seed=3)
    bench_attack(victim.requires_grad_(False), load_dataset(tiny().dataset), CONFIG, layer=layer, precision="fp32")
    plain = "its lower level, engine.quicken=false"
    ours = dict.fromkeys(("rnet", "its lower level", plain, "monitoring"), False)
    assert seen == ours | {"bare passes": True, "straightforward float32": True}


def test_a_profile_names_the_costliest_operators() -> None:
    a, b = torch.randn(300, 400), torch.randn(400, 500)

    def work() -> None:
        for _ in range(7):
            torch.relu(a @ b)

    found = costliest(work, torch.device("cpu"), 50)
    assert [row["ms"] for row in found] == sorted((row["ms"] for row in found), reverse=True)
    assert (found[0]["name"], found[0]["calls"]) == ("aten::mm", 7)
    assert sum(row["share"] for row in found) == pytest.approx(1)
    assert costliest(work, torch.device("cpu"), 2)[0]["name"] == "aten::mm"


def test_kinds_are_told_by_the_names_that_profiles_have() -> None:
    """Those of an H100 and of a CPU."""
    names = {
        "latent step": ["latent_step_kernel", "rnet::latent_step"],
        "fused by the compiler": ["triton_poi_fused_convolution_backward_threshold_backward_5"],
        "attention": ["cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16", "void cudnn::fusion::compute_dot"],
        "convolutions": [
            "sm90_xmma_dgrad_implicit_gemm_bf16bf16", "aten::convolution_backward", "mkldnn::_convolution_pointwise",
            "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816fprop_optimized_bf16_128x128_32x5_nhwc>",
        ],
        "matrix products": ["nvjet_sm90_tst_64x64_64x13_2x1_v_bz_bias_TNT", "aten::bmm", "aten::baddbmm_"],
        "copies, casts and fills": ["void at::native::bfloat16_copy_kernel_cuda", "Memset (Device)", "aten::copy_"],
        "other": ["void at::native::vectorized_layer_norm_kernel<float>", "aten::add_", "aten::threshold_backward"],
    }  # fmt: skip
    rows = [{"name": name, "ms": 1.0} for group in names.values() for name in group]
    found = by_kind(rows)
    assert {row["kind"]: row["ms"] for row in found} == {kind: len(group) for kind, group in names.items()}
    assert sum(row["share"] for row in found) == pytest.approx(1)
    assert found[0]["kind"] == "convolutions"


def test_what_the_yardstick_does_not_cover_is_refused() -> None:
    victim, layer = network("flat", seed=3)
    other = RemovalNetConfig(distance="cosine")
    with pytest.raises(UserError, match=r"attack.distance=l2 attack.target=official"):
        bench_attack(victim, load_dataset(tiny().dataset), other, layer=layer, precision="fp32")


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", ""])
def test_rounds_are_a_whole_number(text: str) -> None:
    assert whole_number("rounds", [], default=5) == 5
    assert whole_number("rounds", ["rounds=2", "rounds=3"], default=5) == 3
    with pytest.raises(UserError, match=f"rounds='{text}' must be a whole number of at least 1"):
        whole_number("rounds", [f"rounds={text}"], default=5)
