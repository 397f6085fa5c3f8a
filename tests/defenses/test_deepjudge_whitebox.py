"""DeepJudge's neurons, fuzzing and the four distances on them."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from rnet.bench.sequential_deepjudge import sequential_fuzz
from rnet.cutting.split import SplitModel
from rnet.defenses.deepjudge.white_box import (
    Fuzzed,
    Phi,
    activated,
    fuzz,
    largest_outputs,
    neuron_outputs,
    outputs_in_chunks,
    whitebox_distances,
)
from rnet.rewrites.modes import frozen_eval
from tests.defenses.tiny import TinyCNN, tiny_dataset, tiny_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def victim() -> TinyCNN:
    return tiny_model(seed=1, width=4, dtype=torch.float64)


@pytest.fixture(scope="module")
def phi(victim: TinyCNN) -> Phi:
    return neuron_outputs(SplitModel(victim, "block1"))


@pytest.fixture(scope="module")
def seeds_NCHW() -> Tensor:
    return tiny_dataset(seed=3, test=2).test.pixels().double()


@pytest.fixture(scope="module")
def threshold_M(phi: Phi, seeds_NCHW: Tensor) -> Tensor:
    """Multiples of the largest output over the seeds: reached by some pairs soon, by some late, by some never."""
    return torch.tensor([1.5, 2.0, 1.5, 2.0]).double() * phi(seeds_NCHW).detach().amax(dim=0)


def run_fuzz(
    victim: TinyCNN,
    phi: Phi,
    seeds_NCHW: Tensor,
    threshold_M: Tensor,
    *,
    chunk: int,
    max_steps: int = 40,
    box: bool = True,
) -> Fuzzed:
    with frozen_eval(victim):
        return fuzz(
            phi, seeds_NCHW, torch.arange(len(threshold_M)), threshold_M,
            learning_rate=0.01, max_steps=max_steps, box=box, chunk=chunk,
        )  # fmt: skip


# --- neurons


def test_a_neuron_is_a_channel_averaged_over_positions(victim: TinyCNN, phi: Phi, seeds_NCHW: Tensor) -> None:
    z = victim.block1((seeds_NCHW - victim.mean_C11) / victim.std_C11).detach()
    phi_NC = phi(seeds_NCHW).detach()
    for n in range(z.shape[0]):
        for c in range(z.shape[1]):
            values = [float(z[n, c, h, w]) for h in range(z.shape[2]) for w in range(z.shape[3])]
            assert float(phi_NC[n, c]) == pytest.approx(math.fsum(values) / len(values), rel=1e-12)


def test_the_released_ports_neurons_are_image_columns(victim: TinyCNN, seeds_NCHW: Tensor) -> None:
    columns = neuron_outputs(SplitModel(victim, "block1"), image_columns=True)
    wide_NCHW = torch.cat([seeds_NCHW, seeds_NCHW[..., :3]], dim=3)
    assert columns(wide_NCHW).shape == (2, 11)  # as many "neurons" as pixels in a row
    assert neuron_outputs(SplitModel(victim, "block1"))(wide_NCHW).shape == (2, 4)
    z = victim.block1((wide_NCHW - victim.mean_C11) / victim.std_C11)
    torch.testing.assert_close(columns(wide_NCHW)[1, 10], z[1, :, :, 10].mean())


def test_neurons_of_a_token_layer_are_averaged_over_tokens() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Identity()

        def forward(self, x_BCHW: Tensor) -> Tensor:
            return self.block(x_BCHW.flatten(2).transpose(1, 2)).mean(dim=1)

    x_BCHW = torch.rand(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(neuron_outputs(SplitModel(Tokens(), "block"))(x_BCHW), x_BCHW.mean(dim=(2, 3)))


def test_a_layer_without_positions_is_taken_as_it_is(victim: TinyCNN, seeds_NCHW: Tensor) -> None:
    logits_NK = neuron_outputs(SplitModel(victim, "classifier"))(seeds_NCHW)
    assert torch.equal(logits_NK, victim(seeds_NCHW))


def test_largest_outputs_look_at_no_more_images_than_asked(phi: Phi) -> None:
    part = tiny_dataset(seed=5, train=11).train
    outputs_NC = phi(part.pixels().double()).detach()

    def double_phi(x_BCHW: Tensor) -> Tensor:
        return phi(x_BCHW.double())

    for count in (4, 11, 100):
        for chunk in (3, 64):
            expected = [max(float(v) for v in outputs_NC[:count, c]) for c in range(outputs_NC.shape[1])]
            assert largest_outputs(double_phi, part, count, chunk, CPU).tolist() == pytest.approx(expected, rel=1e-12)


# --- fuzzing


@pytest.fixture(scope="module")
def one_by_one(victim: TinyCNN, phi: Phi, seeds_NCHW: Tensor, threshold_M: Tensor) -> Fuzzed:
    with frozen_eval(victim):
        return sequential_fuzz(phi, seeds_NCHW, torch.arange(4), threshold_M, max_steps=40)


@pytest.mark.parametrize("chunk", [4, 1000])
def test_batched_fuzzing_finds_what_one_adam_per_pair_finds(
    victim: TinyCNN, phi: Phi, seeds_NCHW: Tensor, threshold_M: Tensor, one_by_one: Fuzzed, chunk: int
) -> None:
    expected = one_by_one
    found = run_fuzz(victim, phi, seeds_NCHW, threshold_M, chunk=chunk)
    assert 0 < len(expected.neuron_P) < expected.attempted == found.attempted  # some fail, some succeed
    assert torch.equal(found.neuron_P, expected.neuron_P)
    torch.testing.assert_close(found.x_PCHW, expected.x_PCHW, rtol=0, atol=1e-9)


def test_a_case_exceeds_its_threshold_inside_the_box(
    victim: TinyCNN, phi: Phi, seeds_NCHW: Tensor, threshold_M: Tensor
) -> None:
    found = run_fuzz(victim, phi, seeds_NCHW, threshold_M, chunk=5)
    own_P = phi(found.x_PCHW).gather(1, found.neuron_P[:, None]).squeeze(1)
    assert bool((own_P > threshold_M[found.neuron_P]).all())
    assert float(found.x_PCHW.min()) >= 0
    assert float(found.x_PCHW.max()) <= 1


def test_without_the_box_cases_leave_pixel_space(
    victim: TinyCNN, phi: Phi, seeds_NCHW: Tensor, threshold_M: Tensor
) -> None:
    found = run_fuzz(victim, phi, seeds_NCHW, threshold_M, chunk=5, box=False)
    assert float(found.x_PCHW.min()) < 0 or float(found.x_PCHW.max()) > 1


def test_a_case_has_taken_at_least_one_step(victim: TinyCNN, phi: Phi, seeds_NCHW: Tensor) -> None:
    found = run_fuzz(victim, phi, seeds_NCHW, torch.full((4,), -1.0).double(), chunk=7)  # exceeded by the seeds already
    moved = (found.x_PCHW - seeds_NCHW.repeat_interleave(4, dim=0)).abs().flatten(1).amax(dim=1)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01))  # exactly one step of Adam


def test_the_last_allowed_step_counts(victim: TinyCNN, phi: Phi, seeds_NCHW: Tensor, threshold_M: Tensor) -> None:
    found = []
    for max_steps in (12, 13, 22, 23):  # on both sides of steps at which a pair succeeds, and of a look at the pool
        with frozen_eval(victim):
            expected = sequential_fuzz(phi, seeds_NCHW[:1], torch.arange(4), threshold_M, max_steps=max_steps)
        fuzzed = run_fuzz(victim, phi, seeds_NCHW[:1], threshold_M, chunk=5, max_steps=max_steps)
        assert torch.equal(fuzzed.neuron_P, expected.neuron_P)
        found.append(len(fuzzed.neuron_P))
    assert found == [1, 2, 2, 3]


def test_pairs_that_never_reach_their_threshold_are_dropped(victim: TinyCNN, phi: Phi, seeds_NCHW: Tensor) -> None:
    found = run_fuzz(victim, phi, seeds_NCHW, torch.full((4,), math.inf).double(), chunk=5)
    assert len(found.x_PCHW) == len(found.neuron_P) == 0
    assert found.attempted == 8


# --- distances


def loop_distances(
    victim: list[list[float]], suspect: list[list[float]], neurons: list[int], num_neurons: int
) -> dict[str, float]:
    """Step by step from the paper's definitions, case by case."""

    def active(row: list[float]) -> list[int]:
        low, high = min(row), max(row)
        return [1 if (value - low) / (high - low + 1e-6) > 0.5 else 0 for value in row]

    lod, lad, nod, nad = [], [], [], []
    for v, s, c in zip(victim, suspect, neurons, strict=True):
        lod.append(math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(v, s, strict=True))))
        av, a_s = active(v), active(s)
        lad.append(sum(abs(a - b) for a, b in zip(av, a_s, strict=True)))
        nod.append(abs(v[c] - s[c]))
        nad.append(abs(av[c] - a_s[c]))
    count = len(neurons)
    return {
        "lod": math.fsum(lod) / count,
        "lad": sum(lad) / count,
        "nod": math.fsum(nod) / count,
        "nad": sum(nad) / count * num_neurons,
    }


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 7), st.integers(1, 9))
def test_distances_equal_loops_over_cases_and_neurons(seed: int, cases: int, channels: int, num_neurons: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    victim_PC, suspect_PC = (torch.randn(cases, channels, generator=generator).double() for _ in range(2))
    neuron_P = torch.randint(0, channels, (cases,), generator=generator)
    expected = loop_distances(victim_PC.tolist(), suspect_PC.tolist(), neuron_P.tolist(), num_neurons)
    assert whitebox_distances(victim_PC, suspect_PC, neuron_P, num_neurons) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31))
def test_distances_do_not_depend_on_the_order_of_cases(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    victim_PC, suspect_PC = (torch.randn(6, 5, generator=generator) for _ in range(2))
    neuron_P, order_P = torch.randint(0, 5, (6,), generator=generator), torch.randperm(6, generator=generator)
    shuffled = whitebox_distances(victim_PC[order_P], suspect_PC[order_P], neuron_P[order_P], 5)
    assert shuffled == pytest.approx(whitebox_distances(victim_PC, suspect_PC, neuron_P, 5), rel=1e-12)


def test_equal_and_nearly_equal_outputs_activate_no_neuron() -> None:
    assert not activated(torch.full((2, 3), 0.7)).any()
    assert not activated(torch.tensor([[0.0, 0.9e-6]])).any()
    assert activated(torch.tensor([[0.0, 1.1e-6]])).tolist() == [[False, True]]


def test_outputs_do_not_depend_on_the_chunk(phi: Phi, seeds_NCHW: Tensor) -> None:
    whole = outputs_in_chunks(phi, seeds_NCHW, 100, CPU)
    torch.testing.assert_close(outputs_in_chunks(phi, seeds_NCHW, 1, CPU), whole, rtol=0, atol=1e-12)
