"""MinGD of Dataset Inference: the ways to other classes, step by step, and what they say of an overfitted victim."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rnet.defenses.dataset_inference.config import DatasetInferenceConfig
from rnet.defenses.dataset_inference.defense import DatasetInference
from rnet.defenses.dataset_inference.mingd import mingd_margins, steepest, targets, way_to
from rnet.rewrites.modes import frozen_eval
from tests.defenses.tiny import fitted, tiny_dataset, tiny_model

DATASET = tiny_dataset(seed=0)
VICTIM = fitted(tiny_model(seed=0), DATASET.train, steps=120)
"""Knows its 48 random labels by heart."""


def config(**changes: Any) -> DatasetInferenceConfig:
    small = {
        "num_regressor_images": 24, "num_suspect_images": 24, "hidden_size": 16, "regressor_steps": 150,
        "sample_size": 8, "num_draws": 20, "walk": "mingd", "num_directions": 4, "mingd_steps": 15,
        "mingd_linf_step": 0.02, "mingd_l2_step": 0.1, "mingd_l1_step": 2.0, "mingd_pixels": 20,
    }  # fmt: skip
    return DatasetInferenceConfig(**{**small, **changes})


def plain_way(model: nn.Module, x_CHW: Tensor, target: int, norm: str, steps: int, pixels: int) -> Tensor:
    """One way to a class in float64 from the description, pixel by pixel in the l1 case."""
    delta = torch.zeros_like(x_CHW)
    for _ in range(steps):
        leaf = (x_CHW + delta).requires_grad_(True)
        logits_K = model(leaf[None])[0]
        if int(logits_K.argmax()) == target:
            break
        (g,) = torch.autograd.grad(logits_K.max() - logits_K[target], leaf)
        if norm == "linf":
            step = -0.02 * g.sign()
        elif norm == "l2":
            step = -0.1 * g / math.sqrt(math.fsum(float(v) ** 2 for v in g.flatten()))
        else:
            free = []
            for e, (slope, value) in enumerate(zip(g.flatten().tolist(), leaf.flatten().tolist(), strict=True)):
                crossing = (slope > 0 and value <= 0.001) or (slope < 0 and value >= 0.999)
                if 0 < value < 1 and not crossing:
                    free.append((abs(slope), e))
            step = torch.zeros_like(g).flatten()
            for _, e in sorted(free, reverse=True)[:pixels]:
                step[e] = -2.0 / pixels * g.flatten()[e].sign()
            step = step.view_as(g)
        delta = (x_CHW + delta + step).clamp(0, 1) - x_CHW
    return delta


@pytest.mark.parametrize(("norm", "order"), [("linf", float("inf")), ("l2", 2.0), ("l1", 1.0)])
def test_ways_to_other_classes_equal_steepest_descent_one_at_a_time(norm: str, order: float) -> None:
    exact = tiny_model(3, dtype=torch.float64)
    x_NCHW = DATASET.train.pixels(torch.arange(5)).double()
    with frozen_eval(exact):
        target_BD = targets(exact(x_NCHW), 4)
        assert target_BD.tolist() == [[0, 1, 2, 3]] * 5
        x_PCHW = x_NCHW.repeat_interleave(4, dim=0)
        found_PCHW = way_to(config(), exact, x_PCHW, target_BD.flatten(), norm)
        expected = [plain_way(exact, x, int(t), norm, 15, 20) for x, t in zip(x_PCHW, target_BD.flatten(), strict=True)]
    lengths = []
    for found, way in zip(found_PCHW, expected, strict=True):
        torch.testing.assert_close(found, way, atol=1e-6, rtol=1e-6)
        lengths.append(float(torch.linalg.vector_norm(way.flatten(), order)))
    assert 5 <= sum(length == 0 for length in lengths) < 20  # the own class of each, at least
    features = mingd_margins(config(), tiny_model(3), DATASET.train.fetch(torch.arange(5)))
    column = {"linf": 0, "l2": 4, "l1": 8}[norm]
    for n in range(5):
        assert features[n, column : column + 4].tolist() == pytest.approx(
            sorted(lengths[4 * n : 4 * n + 4]), rel=1e-3, abs=1e-6
        )


def test_of_many_classes_the_likeliest_after_the_first_are_targets() -> None:
    logits_BK = torch.tensor([[0.0, 5.0, 3.0, 4.0, 1.0], [9.0, 1.0, 2.0, 3.0, 4.0]])
    assert targets(logits_BK, 3).tolist() == [[3, 2, 4], [4, 3, 2]]
    assert targets(logits_BK, 5).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_an_l1_step_moves_the_steepest_pixels_that_can_move() -> None:
    gradient = torch.tensor([[5.0, -4.0, 3.0, -2.0, 1.0, 9.0]]).view(1, 1, 1, 6)
    there = torch.tensor([[0.9995, 0.0005, 0.5, 0.0, 0.5, 0.5]]).view(1, 1, 1, 6)
    step = steepest(gradient, there, config(mingd_pixels=2))
    assert step.flatten().tolist() == [0, 0, 0.5, 0, 0, 0.5]


def test_mingd_needs_the_weights_and_tells_the_overfitted_victim() -> None:
    defense = DatasetInference(config())
    assert {defense.access(metric) for metric in defense.metrics} == {"white_box"}
    made = defense.extract(VICTIM, DATASET, seed=0)
    assert made.tensors["mean_F"].shape == (12,)
    own = defense.verify(made, copy.deepcopy(VICTIM))["p_value"]
    assert own == made.metadata["victim_p_value"] < 0.01
    assert defense.verify(made, tiny_model(seed=2))["p_value"] > own
    chunked = DatasetInference(config(memory_mb=1)).verify(made, VICTIM)["p_value"]
    assert math.log10(chunked) == pytest.approx(math.log10(own), abs=0.1)
