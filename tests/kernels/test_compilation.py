"""Each launch compiles for an H100, which takes no GPU: the interpreter accepts what Triton's compiler refuses."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.test_admissible_mix import draw as draw_mix
from tests.kernels.test_distillation_loss import draw as draw_loss
from tests.kernels.test_latent_step import draw as draw_latents
from tests.kernels.test_partners import draw as draw_pairs

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


class Hopper:
    """As much of a Triton driver as its compiler asks for; the device number is nobody's, so nothing cached is run."""

    def get_current_device(self) -> int:
        return -1

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was compiled: inside, a launch compiles its kernel for exactly its arguments and does not run it."""
    pytest.importorskip("triton")
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    results: list[Any] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        results.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    monkeypatch.setattr(driver, "_active", Hopper())
    monkeypatch.setattr(JITFunction, "run", compile_only)
    return results


def latents(B: int, C: int, *positions: int, axis: int = 1, dtype: torch.dtype = FP32, shuffled: bool = True) -> Any:
    z1, z, gradient, perm_BC = draw_latents(B, C, *positions)
    if axis != 1:
        z1, z, gradient = (tensor.movedim(1, axis).contiguous() for tensor in (z1, z, gradient))
    return z1, z.to(dtype), gradient.to(dtype), torch.ones(()), perm_BC if shuffled else None, axis, 0.1, 0.01, 3


def channels_last(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.contiguous(memory_format=torch.channels_last) if isinstance(value, Tensor) and value.ndim == 4 else value
        for value in arguments
    )


CASES: dict[str, tuple[str, Callable[[], tuple[Any, ...]]]] = {
    "features": ("latent_step", lambda: latents(2, 64, 16, 16)),
    "features in channels_last": ("latent_step", lambda: channels_last(latents(2, 64, 8, 8, dtype=BF16))),
    "tokens of odd size": ("latent_step", lambda: latents(2, 17, 5, axis=2, dtype=FP16)),
    "vectors, unshuffled": ("latent_step", lambda: latents(2, 17, shuffled=False)),
    "one number": ("latent_step", lambda: latents(1, 1)),
    "mixed target": ("distillation_loss", lambda: (*draw_loss(2, 21_841, BF16, True), 20.0, 0.2, 0.6, True)),
    "given target": ("distillation_loss", lambda: (*draw_loss(5, 10, FP16, False), 20.0, 0.2, 0.6, False)),
    "given target of many classes": (
        "distillation_loss",
        lambda: (*draw_loss(9, 1000, FP32, False), 20.0, 0.2, 0.6, False),
    ),
    "one class": ("distillation_loss", lambda: (*draw_loss(1, 1, FP32, True), 20.0, 0.2, 0.6, True)),
    "pairs": ("partners", lambda: draw_pairs(5, 19, 1000)),
    "one pair": ("partners", lambda: draw_pairs(1, 1, 1)),
    "mix": ("admissible_mix", lambda: draw_mix(5, 1000)),
    "mix of one class": ("admissible_mix", lambda: draw_mix(1, 1, BF16, G=1)),
}


@pytest.mark.parametrize("name", CASES)
def test_launch_compiles_for_an_h100(compiled: list[Any], name: str) -> None:
    op, arguments = CASES[name]
    importlib.import_module(f"rnet.kernels.{op}").by_triton(*arguments())
    assert compiled
    for kernel in compiled:
        assert len(kernel.asm["cubin"]) > 0
        if op in ("latent_step", "admissible_mix"):  # they promise torch's bits
            wanted = 2 * kernel.asm["ptx"].count("setp.num.f32")  # two for each quotient, each of which is looked at
            assert kernel.asm["ptx"].count("fma.rn.f32") == wanted
