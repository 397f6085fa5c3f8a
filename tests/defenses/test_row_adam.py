"""Adam row by row: as torch's and as keras', element by element; rows that leave and join keep their own state."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rnet.defenses.row_adam import RowAdam

ROWS, PIXELS, STEPS = 3, 5, 12
# From gradients that dwarf the epsilon to gradients that are smaller than it.
SCALES_P = torch.tensor([1.0, 1e-3, 1e-6, 1e-7, 1e-8], dtype=torch.float64)


def gradients() -> Tensor:
    """(STEPS, ROWS, PIXELS)"""
    return torch.randn(STEPS, ROWS, PIXELS, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * SCALES_P


def plain_steps(gradient_S: list[float], rate: float, epsilon: float, keras: bool) -> list[float]:
    """Kingma and Ba's algorithm for one number; keras is their section 2's faster order, which rescales the epsilon."""
    m = v = 0.0
    steps = []
    for t, g in enumerate(gradient_S, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        if keras:
            steps.append(rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (math.sqrt(v) + epsilon))
        else:
            steps.append(rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + epsilon))
    return steps


@pytest.mark.parametrize("ages", ["shared", "by_row"])
@pytest.mark.parametrize(
    ("keras", "epsilon", "expected_epsilon"),
    [(False, None, 1e-8), (True, None, 1e-7), (False, 1e-3, 1e-3), (True, 1e-3, 1e-3)],
)
def test_every_element_moves_as_the_algorithm_says(
    keras: bool, epsilon: float | None, expected_epsilon: float, ages: str
) -> None:
    gradient_SRP = gradients()
    adam = RowAdam.start(gradient_SRP[0], epsilon=epsilon, keras=keras)
    for s in range(STEPS):
        age = s + 1 if ages == "shared" else torch.full((ROWS, 1), s + 1)
        moved_RP = adam.step(gradient_SRP[s], age, 0.01)
        for r in range(ROWS):
            for p in range(PIXELS):
                expected = plain_steps(gradient_SRP[: s + 1, r, p].tolist(), 0.01, expected_epsilon, keras)[-1]
                assert float(moved_RP[r, p]) == pytest.approx(expected, rel=1e-9)


def test_without_further_words_it_is_torchs_adam() -> None:
    gradient_SRP = gradients()
    x = torch.zeros(ROWS, PIXELS, dtype=torch.float64, requires_grad=True)
    optimizer, adam = torch.optim.Adam([x], lr=0.01), RowAdam.start(x.detach())
    for s in range(STEPS):
        before = x.detach().clone()
        x.grad = gradient_SRP[s].clone()
        optimizer.step()
        torch.testing.assert_close(before - x.detach(), adam.step(gradient_SRP[s], s + 1, 0.01), rtol=1e-9, atol=1e-15)


def test_keras_moves_pixels_with_tiny_gradients_less() -> None:
    gradient_RP = gradients()[0]
    torchs, keras = (RowAdam.start(gradient_RP, keras=k).step(gradient_RP, 1, 0.01).abs() for k in (False, True))
    torch.testing.assert_close(keras[:, 0], torchs[:, 0], rtol=1e-3, atol=0)
    assert bool((keras[:, 4] < 0.1 * torchs[:, 4]).all())


@pytest.mark.parametrize("keras", [False, True])
def test_rows_that_leave_and_join_go_on_as_they_would_alone(keras: bool) -> None:
    gradient_SRP = gradients()
    start = RowAdam.start(gradient_SRP[0], epsilon=1e-4, keras=keras)
    start.step(gradient_SRP[0], 1, 0.01)
    left = start.select(torch.tensor([2, 0]))
    both = left.join(RowAdam.start(gradient_SRP[0, :1], epsilon=1e-4, keras=keras))
    rows = torch.cat([gradient_SRP[1, [2, 0]], gradient_SRP[0, :1]])
    found = both.step(rows, torch.tensor([[2], [2], [1]]), 0.01)
    alone = RowAdam.start(gradient_SRP[0], epsilon=1e-4, keras=keras)
    first = alone.step(gradient_SRP[0], 1, 0.01)
    second = alone.step(gradient_SRP[1], 2, 0.01)
    torch.testing.assert_close(found, torch.stack([second[2], second[0], first[0]]), rtol=1e-12, atol=0)
