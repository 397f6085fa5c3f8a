"""Each fused op against plain torch, eager and compiled, on one device in one run.

On CUDA a candidate is captured in a CUDA graph and the replay is timed, as the attack runs it: without the time that
Python and launches take. On a CPU the op is its torch reference, and calls are timed. Candidates take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rnet.attacks.removalnet.bilevel import apply_permutation
from rnet.kernels.admissible_mix import MIXING_WEIGHTS, admissible_mix
from rnet.kernels.distillation_loss import distillation_loss
from rnet.kernels.latent_step import latent_step
from rnet.kernels.partners import first_argmax, partners

Scale = Literal["tiny", "cpu", "cuda"]
Work = Callable[[], object]

WEIGHT, STEP_SIZE = 0.1, 0.01
TEMPERATURE, ALPHA, GAMMA = 20.0, 0.2, 0.6


@dataclass(frozen=True, kw_only=True)
class Case:
    """One op at one size. kernel and eager take inputs; with a leaf, the gradient of their sum at it is taken too.

    traffic: bytes that must be read and written, each once.
    """

    name: str
    work: str
    inputs: tuple[Any, ...]
    kernel: Callable[..., Any]
    eager: Callable[..., Any]
    traffic: int
    leaf: Tensor | None = None

    def call(self, function: Callable[..., Any]) -> Work:
        """What is timed: the function and, with a leaf, its backward pass."""
        leaf = self.leaf
        if leaf is None:
            return lambda: function(*self.inputs)
        return lambda: torch.autograd.grad(function(*self.inputs), leaf)


def bench_kernels(
    device: torch.device, *, scale: Scale | None = None, compiled: bool = True, rounds: int = 20
) -> list[dict[str, Any]]:
    """One row per op and size: median and interquartile range in ms of the kernel, eager and compiled torch, ratios.

    A ratio above 1 means that the kernel is faster. gb_per_second: the kernel's, over the traffic it cannot avoid.
    scale: sizes; by default those of the device. compiled=False leaves torch.compile out.
    """
    rows = []
    for case in _cases(device, scale or ("cuda" if device.type == "cuda" else "cpu")):
        candidates = {"kernel": case.kernel, "eager": case.eager}
        if compiled:
            torch.compiler.reset()
            candidates["compiled"] = torch.compile(case.eager, dynamic=False)
        times = _times({name: case.call(function) for name, function in candidates.items()}, device, rounds)
        row: dict[str, Any] = {"name": case.name, "work": case.work}
        for name, (median, spread) in times.items():
            row |= {f"{name}_ms": median, f"{name}_spread_ms": spread}
        for name in set(times) - {"kernel"}:
            row[f"ratio_{name}"] = times[name][0] / times["kernel"][0]
        row["gb_per_second"] = case.traffic / times["kernel"][0] / 1e6
        rows.append(row)
    return rows


def _cases(device: torch.device, scale: Scale) -> list[Case]:
    """The sizes: VGG19 and ResNet-50 at their usual cut, ViT-B/16; CIFAR10, ImageNet-1k and ImageNet-21k."""
    bf16, fp32 = torch.bfloat16, torch.float32
    if scale == "cuda":
        return [
            *(_latent_step(device, (128, 128, 8, 8), layout, fp32) for layout in ("contiguous", "channels_last")),
            *(_latent_step(device, (128, 256, 56, 56), layout, fp32) for layout in ("contiguous", "channels_last")),
            *(_latent_step(device, (128, 768, 197), "tokens", dtype) for dtype in (fp32, bf16)),
            *(_distillation(device, 128, 10, dtype) for dtype in (fp32, bf16)),
            *(_distillation(device, 128, 1000, dtype) for dtype in (fp32, bf16)),
            *(_distillation(device, 256, 21_841, dtype) for dtype in (fp32, bf16)),
            *(_partners(device, *sizes) for sizes in ((128, 128, 10), (128, 1024, 1000), (64, 256, 21_841))),
            *(_mix(device, *sizes) for sizes in ((128, 10), (128, 1000), (256, 21_841))),
        ]
    if scale == "cpu":
        return [
            *(_latent_step(device, (32, 64, 16, 16), layout, fp32) for layout in ("contiguous", "channels_last")),
            _latent_step(device, (8, 192, 65), "tokens", fp32),
            _distillation(device, 128, 10, fp32), _distillation(device, 64, 1000, fp32),
            _partners(device, 128, 128, 10), _partners(device, 64, 256, 1000),
            _mix(device, 128, 10), _mix(device, 64, 1000),
        ]  # fmt: skip
    return [
        _latent_step(device, (2, 3, 4), "tokens", fp32), _distillation(device, 2, 3, bf16), _partners(device, 2, 3, 4),
        _mix(device, 2, 3),
    ]  # fmt: skip


def _latent_step(device: torch.device, shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Case:
    draw = torch.Generator().manual_seed(0)
    z, noise, gradient = (torch.randn(shape, generator=draw).to(device, dtype) for _ in range(3))
    if layout == "channels_last":
        z, noise, gradient = (t.contiguous(memory_format=torch.channels_last) for t in (z, noise, gradient))
    if layout == "tokens":
        z, noise, gradient = (t.transpose(1, 2).contiguous() for t in (z, noise, gradient))
    axis = -1 if layout == "tokens" else 1
    B, C = shape[:2]
    perm_BC = torch.arange(C).repeat(B, 1)
    perm_BC[:, :3] = perm_BC[:, :3].roll(1, dims=1)  # as a share of 0.02 of the channels, moved
    z1 = z + noise
    squared = (z1 - z).float().square().sum()

    def kernel(*inputs: Tensor) -> Any:
        return latent_step(*inputs, channel_axis=axis, weight=WEIGHT, step_size=STEP_SIZE)

    def eager(z1: Tensor, z: Tensor, gradient: Tensor, squared: Tensor, perm_BC: Tensor) -> Any:
        total = gradient.float() - WEIGHT * (z1.float() - z.float()) / squared
        moved = apply_permutation((z1.float() - STEP_SIZE * total.sign()).to(z1.dtype), perm_BC, axis)
        return moved, (moved.float() - z.float()).square().sum()

    return Case(
        name="latent_step", work=f"{'x'.join(map(str, z.shape))} {layout} {_type(dtype)}",
        inputs=(z1, z, gradient * 1e-4, squared, perm_BC.to(device)), kernel=kernel, eager=eager,
        traffic=4 * z.numel() * z.element_size() + perm_BC.numel() * 8,
    )  # fmt: skip


def _distillation(device: torch.device, B: int, K: int, dtype: torch.dtype) -> Case:
    draw = torch.Generator().manual_seed(0)
    logits_BK = (torch.randn(B, K, generator=draw) * 5).to(device, dtype).requires_grad_()
    mixed_BK = torch.randn(B, K, generator=draw).softmax(1).to(device)
    y_B = torch.randint(K, (B,), generator=draw).to(device)

    def kernel(logits_BK: Tensor, mixed_BK: Tensor, y_B: Tensor) -> Tensor:
        return distillation_loss(
            logits_BK, mixed_BK, y_B, temperature=TEMPERATURE, alpha=ALPHA, gamma=GAMMA, soften_target=True
        )[0]

    def eager(logits_BK: Tensor, mixed_BK: Tensor, y_B: Tensor) -> Tensor:
        logits_BK = logits_BK.float()
        log_s_BK = F.log_softmax(logits_BK / TEMPERATURE, dim=1)
        kl = F.kl_div(log_s_BK, (mixed_BK / TEMPERATURE).softmax(dim=1), reduction="batchmean")
        return ALPHA * TEMPERATURE**2 * kl + GAMMA * F.cross_entropy(logits_BK, y_B)

    return Case(
        name="distillation_loss", work=f"{B}x{K} {_type(dtype)}, forward and backward",
        inputs=(logits_BK, mixed_BK, y_B), kernel=kernel, eager=eager, leaf=logits_BK,
        traffic=B * K * (2 * logits_BK.element_size() + 4),
    )  # fmt: skip


def _partners(device: torch.device, B: int, G: int, K: int) -> Case:
    draw = torch.Generator().manual_seed(0)
    p_BK, gallery_GK = (torch.randn(rows, K, generator=draw).softmax(1).to(device) for rows in (B, G))

    def eager(p_BK: Tensor, gallery_GK: Tensor) -> Tensor:
        return first_argmax(torch.cdist(p_BK, gallery_GK, compute_mode="donot_use_mm_for_euclid_dist"))

    return Case(
        name="partners", work=f"{B}x{G}x{K} float32", inputs=(p_BK, gallery_GK), kernel=partners, eager=eager,
        traffic=(B + G) * K * 4,
    )  # fmt: skip


def _mix(device: torch.device, B: int, K: int) -> Case:
    draw = torch.Generator().manual_seed(0)
    p_BK = (torch.randn(B, K, generator=draw) * 5).softmax(1).to(device)
    partner_B = torch.randint(B, (B,), generator=draw).to(device)
    b_W = torch.tensor(MIXING_WEIGHTS, device=device)

    def eager(p_BK: Tensor, gallery_GK: Tensor, partner_B: Tensor, y_B: Tensor) -> Tensor:
        other_BK = gallery_GK[partner_B]
        mixed_BWK = b_W[None, :, None] * p_BK[:, None] + (1 - b_W)[None, :, None] * other_BK[:, None]
        admissible_BW = first_argmax(mixed_BWK) == y_B[:, None]
        first_B = first_argmax(admissible_BW.float())
        b_B1 = torch.where(admissible_BW.any(dim=1), b_W[first_B], 1.0)[:, None]
        return b_B1 * p_BK + (1 - b_B1) * other_BK

    return Case(
        name="admissible_mix", work=f"{B}x{K} float32", inputs=(p_BK, p_BK, partner_B, p_BK.argmax(1)),
        kernel=admissible_mix, eager=eager, traffic=3 * B * K * 4,
    )  # fmt: skip


def _times(candidates: dict[str, Work], device: torch.device, rounds: int) -> dict[str, tuple[float, float]]:
    """(median, interquartile range) of the milliseconds of each candidate, which take turns."""
    timed = {name: _on_cuda(work, device) if device.type == "cuda" else _on_cpu(work) for name, work in
             candidates.items()}  # fmt: skip
    samples = torch.tensor([[milliseconds() for milliseconds in timed.values()] for _ in range(rounds)])
    quartiles = samples.double().quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=0)
    return {name: (float(q[1]), float(q[2] - q[0])) for name, q in zip(timed, quartiles.T, strict=True)}


def _on_cpu(work: Work, least_ms: float = 2.0) -> Callable[[], float]:
    """Milliseconds per call, over as many calls as take least_ms."""
    for _ in range(2):  # the first call compiles
        work()
    started = time.perf_counter()
    work()
    calls = max(1, round(least_ms / 1e3 / (time.perf_counter() - started)))

    def milliseconds() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - started) * 1e3 / calls

    return milliseconds


def _on_cuda(work: Work, device: torch.device, calls: int = 10) -> Callable[[], float]:
    """Milliseconds per call of the GPU, over a graph of several calls. Capturing fails on any synchronisation."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):  # the first call compiles
            work()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        for _ in range(calls):
            work()
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()

    def milliseconds() -> float:
        started.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        return started.elapsed_time(ended) / calls

    return milliseconds


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
