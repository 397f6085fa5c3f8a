"""The latent step against element-by-element loops in float64, autograd's own rounding, and its edge cases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rnet.errors import UserError
from rnet.kernels.latent_step import latent_step, latent_step_op
from tests.kernels.closeness import FLOAT_TYPES, assert_near

Run = Callable[..., Any]
SETTINGS = {"weight": 0.1, "step_size": 0.01}
SIZES = [(1, 17), (2, 1), (5, 3)]


def in_loops(z1: Tensor, z: Tensor, gradient: Tensor, squared: float, perm_BC: Tensor | None, axis: int) -> Tensor:
    """The step in float64: every element moved on its own, then every channel taken from where the permutation says."""
    expected = torch.empty(z1.shape, dtype=torch.float64)
    for position in itertools.product(*(range(size) for size in z1.shape)):
        source = list(position)
        if perm_BC is not None:
            source[axis] = int(perm_BC[position[0], position[axis]])
        old, center, slope = (float(t[tuple(source)]) for t in (z1, z, gradient))
        uphill = slope - 0.1 * (old - center) / squared
        expected[position] = old - 0.01 * (0.0 if uphill == 0 else math.copysign(1.0, uphill))
    return expected


def laid_out(values: Tensor, layout: str) -> tuple[Tensor, int]:
    """(B, C, 2, 3) values in some layout, and the channel axis."""
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last), 1
    if layout == "tokens":
        return values.flatten(2).transpose(1, 2).contiguous(), 2
    if layout == "strided":
        return values.repeat_interleave(2, dim=1).repeat_interleave(2, dim=3)[:, ::2, :, 1::2], 1
    if layout == "transposed":
        return values.transpose(2, 3).contiguous().transpose(2, 3), 1
    return values.contiguous(), 1


def draw(B: int, C: int, *positions: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """z1, z and a gradient of the size at which it and the distance's gradient compete, and a shuffle."""
    generator = torch.Generator().manual_seed(seed)
    z1, z, gradient = (torch.randn(B, C, *positions, generator=generator).to(dtype) for _ in range(3))
    perm_BC = torch.stack([torch.randperm(C, generator=generator) for _ in range(B)])
    return [z1, z, gradient * 0.1 / math.sqrt(z.numel()), perm_BC]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "tokens", "strided", "transposed"])
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize(("B", "C"), SIZES)
def test_step_equals_loops_in_float64(run: Run, B: int, C: int, dtype: torch.dtype, layout: str) -> None:
    *latents, perm_BC = draw(B, C, 2, 3, dtype=dtype)
    (z1, axis), (z, _), (gradient, _) = (laid_out(latent, layout) for latent in latents)
    before = (z1.double() - z.double()).square().sum()
    out, squared = run(latent_step, z1, z, gradient, before.float(), perm_BC, channel_axis=axis, **SETTINGS)
    assert out.dtype == dtype
    assert_near(out, in_loops(z1, z, gradient, float(before), perm_BC, axis), digits=1e-6)
    assert squared.dtype == torch.float32
    assert_near(squared, (out.double() - z.double()).square().sum())


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "tokens", "strided", "transposed"])
def test_a_shuffle_that_moves_few_channels(run: Run, layout: str) -> None:
    *latents, _ = draw(3, 32, 2, 3)
    (z1, axis), (z, _), (gradient, _) = (laid_out(latent, layout) for latent in latents)
    perm_BC = torch.arange(32).repeat(3, 1)
    perm_BC[0, [3, 20]], perm_BC[2, [0, 31, 7]] = torch.tensor([20, 3]), torch.tensor([31, 7, 0])
    before = (z1 - z).square().sum()
    out, squared = run(latent_step, z1, z, gradient, before, perm_BC, channel_axis=axis, **SETTINGS)
    assert_near(out, in_loops(z1, z, gradient, float(before), perm_BC, axis), digits=1e-6)
    assert_near(squared, (out.double() - z.double()).square().sum())


def test_step_without_a_shuffle_moves_each_element_where_it_is(run: Run) -> None:
    z1, z, gradient, _ = draw(2, 5, 7)
    before = (z1 - z).square().sum()
    out, squared = run(latent_step, z1, z, gradient, before, None, channel_axis=1, **SETTINGS)
    assert_near(out, in_loops(z1, z, gradient, float(before), None, 1), digits=1e-6)
    assert_near(squared, (out.double() - z.double()).square().sum())


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_vectors_are_stepped_and_shuffled(run: Run, channel_axis: int) -> None:
    z1, z, gradient, perm_BC = draw(5, 17)
    before = (z1 - z).square().sum()
    out, _ = run(latent_step, z1, z, gradient, before, perm_BC, channel_axis=channel_axis, **SETTINGS)
    assert_near(out, in_loops(z1, z, gradient, float(before), perm_BC, 1), digits=1e-6)


@pytest.mark.parametrize(("shape", "axis"), [((2, 17, 40, 10), 1), ((2, 1300, 2), 1), ((2, 5, 1100), 2)])
@pytest.mark.parametrize("samples", [1, 7])
def test_features_of_many_tiles_equal_plain_torch(run: Run, shape: tuple[int, ...], axis: int, samples: int) -> None:
    """Bit for bit but for the distance, although a division by 7 is not exact."""
    generator = torch.Generator().manual_seed(1)
    z1, z, gradient = (torch.randn(shape, generator=generator) for _ in range(3))
    gradient = samples * gradient * 0.1 / math.sqrt(z.numel())
    perm_BC = torch.stack([torch.randperm(shape[axis], generator=generator) for _ in range(2)])
    before = (z1 - z).square().sum()
    moved = z1 - 0.01 * (gradient / samples - (z1 - z) / before * 0.1).sign()
    expected = torch.stack([sample.index_select(axis - 1, perm) for sample, perm in zip(moved, perm_BC, strict=True)])
    out, squared = run(latent_step, z1, z, gradient, before, perm_BC, channel_axis=axis, samples=samples, **SETTINGS)
    assert torch.equal(out, expected)
    assert_near(squared, (expected.double() - z.double()).square().sum())


def test_the_distance_of_many_elements_is_not_rounded_away() -> None:
    """torch's norm of so many float32 numbers is too low on a CPU."""
    z1, z = torch.full((4, 1, 2**22), 1.5), torch.zeros(4, 1, 2**22)
    out, squared = latent_step(z1, z, torch.zeros_like(z), torch.tensor(1.0), None, channel_axis=1, **SETTINGS)
    assert_near(squared, out.double().square().sum(), digits=1e-6)


def test_types_may_be_mixed_and_the_step_survives_in_float32(run: Run) -> None:
    z1, z, gradient, perm_BC = draw(2, 3, 4)
    z, gradient = z.bfloat16(), gradient.half()
    before = (z1.double() - z.double()).square().sum()
    out, _ = run(latent_step, z1, z, gradient, before.float(), perm_BC, channel_axis=1, **SETTINGS)
    assert out.dtype == torch.float32
    assert_near(out, in_loops(z1, z, gradient, float(before), perm_BC, 1), digits=1e-6)


def test_output_keeps_channels_last(run: Run) -> None:
    z1, z, gradient, perm_BC = draw(2, 3, 4, 5)
    z1 = z1.contiguous(memory_format=torch.channels_last)
    before = (z1 - z).square().sum()
    out, _ = run(latent_step, z1, z, gradient, before, perm_BC, channel_axis=1, **SETTINGS)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_near(out, in_loops(z1, z, gradient, float(before), perm_BC, 1), digits=1e-6)


def test_latent_that_has_not_left_stays(run: Run) -> None:
    """As autograd has it: the gradient of log 0 is NaN, and its sign 0."""
    z1, _, gradient, _ = draw(2, 3, 4)
    out, squared = run(latent_step, z1, z1, gradient, torch.zeros(()), None, channel_axis=1, **SETTINGS)
    assert torch.equal(out, z1)
    assert squared == 0


def five_steps(z1: Tensor, z: Tensor, slopes: Tensor, perms_PBC: Tensor) -> Tensor:
    """The latent level against a linear tail, each step's distance from the step before."""
    squared = (z1 - z).square().sum()
    for perm_BC in [*perms_PBC, None]:
        z1, squared = latent_step(z1, z, slopes * z1, squared, perm_BC, channel_axis=1, **SETTINGS)
    return z1


def test_chained_steps_follow_the_latent_level(run: Run) -> None:
    z1, z, slopes, _ = draw(3, 6, 5)
    perms_PBC = torch.stack([draw(3, 6, seed=seed)[-1] for seed in range(4)])
    expected = z1.double()
    for perm_BC in [*perms_PBC, None]:
        away = expected - z
        expected = expected - 0.01 * (slopes * expected - 0.1 * away / away.square().sum()).sign()
        if perm_BC is not None:
            expected = expected.gather(1, perm_BC[:, :, None].expand_as(expected))
    assert_near(run(five_steps, z1, z, slopes, perms_PBC), expected, digits=1e-6)


def test_inputs_are_left_alone(run: Run) -> None:
    z1, z, gradient, perm_BC = draw(2, 3, 4)
    before = [tensor.clone() for tensor in (z1, z, gradient, perm_BC)]
    run(latent_step, z1, z, gradient, (z1 - z).square().sum(), perm_BC, channel_axis=1, **SETTINGS)
    assert all(torch.equal(*pair) for pair in zip(before, (z1, z, gradient, perm_BC), strict=True))


def test_gradients_of_both_results_are_the_numerical_ones() -> None:
    z1, z, gradient, perm_BC = draw(2, 3, 4, dtype=torch.float64)
    squared = (z1 - z).square().sum()

    def both(z1: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return latent_step(z1, z, gradient, squared, perm_BC, channel_axis=1, **SETTINGS)

    assert torch.autograd.gradcheck(both, (z1.requires_grad_(), z.requires_grad_()))


@pytest.mark.parametrize("shuffled", [True, False])
def test_op_is_registered_soundly(shuffled: bool) -> None:
    z1, z, gradient, perm_BC = draw(2, 3, 4, 5)
    z1 = z1.contiguous(memory_format=torch.channels_last).requires_grad_()
    perm_BC = perm_BC if shuffled else None
    torch.library.opcheck(latent_step_op, (z1, z, gradient, torch.ones(()), perm_BC, 1, 0.1, 0.01, 3))


def test_channel_that_does_not_exist_is_refused_on_a_cpu() -> None:
    z1, z, gradient, perm_BC = draw(2, 3, 4)
    perm_BC[1, 1] = 3
    with pytest.raises(UserError, match="next_perm_BC has 3; give values from 0 to 2"):
        latent_step(z1, z, gradient, torch.ones(()), perm_BC, channel_axis=1, **SETTINGS)


@pytest.mark.parametrize("channel", [-1, 3])
def test_channel_that_does_not_exist_becomes_nan_in_the_kernel(channel: int) -> None:
    pytest.importorskip("triton")
    from tests.kernels.interpreter import interpreted

    z1, z, gradient, perm_BC = draw(2, 3, 4)
    perm_BC[1, 1] = channel
    out, squared = interpreted(latent_step, z1, z, gradient, torch.ones(()), perm_BC, channel_axis=1, **SETTINGS)
    assert out[1, 1].isnan().all()
    assert out.isnan().sum() == 4
    assert squared.isnan()


BAD = {
    "empty batch": ({"z1": torch.zeros(0, 3, 4)}, r"z has shape \(2, 3, 4\); give \(0, 3, 4\)"),
    "all empty": (dict.fromkeys(("z1", "z", "gradient"), torch.zeros(0, 3)), "no empty axis"),
    "no channels": (dict.fromkeys(("z1", "z", "gradient"), torch.zeros(3)), "samples, channels"),
    "gradient's shape": ({"gradient": torch.zeros(2, 3, 5)}, "gradient has shape"),
    "squared distance's shape": ({"squared": torch.ones(1)}, "squared has shape"),
    "samples": ({"samples": 0}, "samples=0; give 1 or more"),
    "permutation's shape": ({"next_perm_BC": torch.zeros(2, 4, dtype=torch.int64)}, "next_perm_BC has shape"),
    "permutation's type": ({"next_perm_BC": torch.zeros(2, 3, dtype=torch.int32)}, "next_perm_BC is int32; give int64"),
    "integer features": ({"z": torch.zeros(2, 3, 4, dtype=torch.int64)}, "z is int64; give bfloat16"),
    "device": ({"z": torch.zeros(2, 3, 4, device="meta")}, "z is on meta but z1 on cpu"),
    "axis": ({"channel_axis": 0}, "channel_axis=0; give 1 or -1"),
    "far axis": ({"channel_axis": 4}, "channel_axis=4; give 1 or -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_remedy(name: str) -> None:
    z1, z, gradient, perm_BC = draw(2, 3, 4)
    good = {"z1": z1, "z": z, "gradient": gradient, "squared": torch.ones(()), "next_perm_BC": perm_BC}
    changes, message = BAD[name]
    with pytest.raises(UserError, match=f"latent_step: .*{message}"):
        latent_step(**{**good, "channel_axis": 1, **SETTINGS, **changes})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "tokens"])
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_full_size_on_cuda_equals_the_reference_without_a_synchronisation(dtype: torch.dtype, layout: str) -> None:
    *latents, perm_BC = draw(128, 256, 28, 28, dtype=dtype)
    (z1, axis), (z, _), (gradient, _) = (laid_out(latent, layout) for latent in latents)
    before = (z1.float() - z.float()).square().sum()
    expected, expected_squared = latent_step(z1, z, gradient, before, perm_BC, channel_axis=axis, **SETTINGS)
    on_gpu = [tensor.cuda() for tensor in (z1, z, gradient, before, perm_BC)]
    latent_step(*on_gpu, channel_axis=axis, **SETTINGS)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        out, squared = latent_step(*on_gpu, channel_axis=axis, **SETTINGS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert out.stride() == expected.stride()
    assert torch.equal(out.cpu(), expected)
    assert_near(squared, expected_squared, digits=1e-4)
