"""DeepJudge's neurons, fuzzing and the four distances on them."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from rnet.bench.sequential_deepjudge import sequential_fuzz
from rnet.cutting.split import SplitModel
from rnet.defenses.deepjudge.fuzzing import Fuzzed, Phi, equally_many, fuzz
from rnet.defenses.deepjudge.white_box import (
    activated,
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
    **more: Any,
) -> Fuzzed:
    with frozen_eval(victim):
        return fuzz(
            phi, seeds_NCHW, torch.arange(len(threshold_M)), threshold_M,
            learning_rate=0.01, max_steps=max_steps, box=box, chunk=chunk, **more,
        )  # fmt: skip


# --- neurons


def test_a_neuron_is_a_channel_averaged_over_positions(victim: TinyCNN, phi: Phi, seeds_NCHW: Tensor) -> None:
    z = victim.block1((seeds_NCHW - victim.mean_C11) / victim.std_C11).detach()
    phi_NC = phi(seeds_NCHW).detach()
    for n in range(z.shape[0]):
        for c in range(z.shape[1]):
            values = [float(z[n, c, h, w]) for h in range(z.shape[2]) for w in range(z.shape[3])]
            assert float(phi_NC[n, c]) == pytest.approx(math.fsum(values) / len(values), rel=1e-12)


def test_neurons_may_be_image_columns(victim: TinyCNN, seeds_NCHW: Tensor) -> None:
    columns = neuron_outputs(SplitModel(victim, "block1"), neuron="column")
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


def loop_fuzz(
    phi: Phi, x_CHW: Tensor, c: int, threshold: float, unit_C11: Tensor, *, steps: int = 40
) -> tuple[Tensor, bool, Tensor]:
    """One pair in float64 with keras' Adam written out: the case, whether it reached the threshold, the best."""
    x, mean, square = x_CHW.clone(), torch.zeros_like(x_CHW), torch.zeros_like(x_CHW)
    best, most = x_CHW, -math.inf
    for age in range(1, steps + 1):
        leaf = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(phi(leaf[None])[0, c], leaf)
        gradient = gradient * unit_C11
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        rate = 0.01 * math.sqrt(1 - 0.999**age) / (1 - 0.9**age)
        x = x + unit_C11 * rate * mean / (square.sqrt() + 1e-7)
        output = float(phi(x[None])[0, c])
        if output > most:
            best, most = x, output
        if output > threshold:
            return x, True, best
    return x, False, best


def test_with_keras_adam_fuzzing_finds_what_its_formula_finds(
    victim: TinyCNN, phi: Phi, seeds_NCHW: Tensor, threshold_M: Tensor, one_by_one: Fuzzed
) -> None:
    unit_C11 = torch.ones(3, 1, 1).double()
    found = run_fuzz(victim, phi, seeds_NCHW, threshold_M, chunk=3, box=False, keras=True)
    with frozen_eval(victim):
        expected = [
            (c, x)
            for x_CHW in seeds_NCHW
            for c in range(4)
            for x, reached, _ in [loop_fuzz(phi, x_CHW, c, float(threshold_M[c]), unit_C11)]
            if reached
        ]
    assert found.neuron_P.tolist() == [c for c, _ in expected]
    assert found.reached == len(expected)
    torch.testing.assert_close(found.x_PCHW, torch.stack([x for _, x in expected]), rtol=0, atol=1e-9)


def test_the_epsilon_decides_whether_pixels_with_tiny_gradients_move() -> None:
    x_1CHW, far_M = torch.full((1, 1, 1, 2), 0.5).double(), torch.tensor([9.0]).double()
    slope_W = torch.tensor([1.0, 3e-8]).double()
    moved = {}
    for keras in (True, False):
        found = fuzz(
            lambda x_BCHW: (x_BCHW * slope_W).sum(dim=(2, 3)), x_1CHW, torch.tensor([0]), far_M,
            learning_rate=0.01, max_steps=1, box=False, chunk=1, keras=keras, best_attempt=True,
        )  # fmt: skip
        moved[keras] = (found.x_PCHW - 0.5).flatten().tolist()
    assert moved[True] == pytest.approx([0.01, 0.01 * 3e-8 / (3e-8 + 1e-7 / math.sqrt(0.001))], rel=1e-4)
    assert moved[False] == pytest.approx([0.01, 0.01 * 3e-8 / (3e-8 + 1e-8)], rel=1e-4)


def test_in_normalised_units_a_channel_moves_by_its_standard_deviation(
    victim: TinyCNN, phi: Phi, seeds_NCHW: Tensor, threshold_M: Tensor
) -> None:
    unit_C11 = torch.tensor([0.5, 1.0, 2.0]).double().view(3, 1, 1)
    found = run_fuzz(victim, phi, seeds_NCHW, threshold_M, chunk=7, box=False, keras=True, unit_C11=unit_C11)
    with frozen_eval(victim):
        x, reached, _ = loop_fuzz(
            phi, seeds_NCHW[0], int(found.neuron_P[0]), float(threshold_M[found.neuron_P[0]]), unit_C11
        )
    assert reached
    torch.testing.assert_close(found.x_PCHW[0], x, rtol=0, atol=1e-9)


def test_a_failed_first_seed_gives_its_best_attempt_where_that_is_wanted(
    victim: TinyCNN, phi: Phi, seeds_NCHW: Tensor, threshold_M: Tensor
) -> None:
    never_M = torch.cat([threshold_M[:2], torch.full((2,), math.inf).double()])
    plain, kept = (
        run_fuzz(victim, phi, seeds_NCHW, never_M, chunk=5, box=False, keras=True, best_attempt=best)
        for best in (False, True)
    )
    assert (plain.attempted, plain.reached) == (kept.attempted, kept.reached) == (8, len(plain.neuron_P))
    assert sorted(kept.neuron_P.tolist()) == sorted([*plain.neuron_P.tolist(), 2, 3])
    ours = {int(c): x for c, x in zip(kept.neuron_P, kept.x_PCHW, strict=True) if c > 1}
    with frozen_eval(victim):
        for c in (2, 3):
            _, _, best = loop_fuzz(phi, seeds_NCHW[0], c, math.inf, torch.ones(3, 1, 1).double())
            torch.testing.assert_close(ours[c], best, rtol=0, atol=1e-9)


def test_equally_many_cases_are_the_first_of_each_neuron() -> None:
    neuron_P = torch.tensor([4, 7, 4, 7, 4])
    fuzzed = Fuzzed(x_PCHW=torch.arange(5.0).view(5, 1, 1, 1), neuron_P=neuron_P, attempted=6, reached=5)
    kept = equally_many(fuzzed, torch.tensor([4, 7]))
    assert kept.x_PCHW.flatten().tolist() == [0, 1, 2, 3]
    assert kept.neuron_P.tolist() == [4, 7, 4, 7]
    assert len(equally_many(fuzzed, torch.tensor([4, 7, 9])).neuron_P) == 0


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
