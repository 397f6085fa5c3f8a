"""Evasion probes see what an attack does to a fingerprint, and leave no trace in what is trained."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rnet.attacks.base import AttackContext
from rnet.attacks.registry import ATTACKS
from rnet.config.run import load_config
from rnet.data.images import Dataset
from rnet.engines.config import EngineConfig
from rnet.models.classifier import Classifier
from rnet.stages.probes import STEP_SIZE, STEPS, make_probe
from tests.attacks.table import TABLE
from tests.engines.cells import seeing

CPU = torch.device("cpu")
CASES = [
    "removalnet", "removalnet_victim", "finetune_labelled_half", "retrain", "prune", "adversarial_training",
    "distill_cropped", "feature_distill", "knockoff_adaptive", "independent",
]  # fmt: skip
"""Of tests/attacks/table.py: one for each way to train. Two processes: tests/engines/test_equivalence.py."""
TAGS = {"evasion/matching_rate", "evasion/ddv", "evasion/agreement"}


def attacked(
    case: str, folder: Path, context: AttackContext, dataset: Dataset, *, probe_every: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    seen: dict[str, float] = {}
    frozen = context.copy_of_victim().requires_grad_(False)
    run = replace(
        context.run, folder=folder, config=EngineConfig(device="cpu", probe_every=probe_every),
        probe=seeing(make_probe(frozen, dataset.test, context.default_layer, CPU), seen),
    )  # fmt: skip
    suspect = ATTACKS.build(load_config(TABLE[case]).attack).run(dataset, replace(context, run=run))
    return suspect.model.state_dict(), seen


@pytest.mark.parametrize("case", CASES)
def test_probes_change_no_bit_of_any_attack(
    case: str,
    context: AttackContext,
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    without, nothing = attacked(case, tmp_path / "without", context, dataset, probe_every=0)
    probed, seen = attacked(case, tmp_path / "probed", context, dataset, probe_every=1)
    assert not nothing
    assert seen.keys() == TAGS | {"latent/to_victim"}
    assert all(torch.equal(value, probed[name]) for name, value in without.items())


def test_a_copy_matches_and_its_flags_are_put_back(victim: Classifier, dataset: Dataset) -> None:
    probe = make_probe(victim, dataset.test, "layer1", CPU)
    model = copy.deepcopy(victim).train().requires_grad_(True)
    model.backbone.layer1.eval()
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    seen = probe(model)
    assert seen.scalars == pytest.approx({tag: 1.0 for tag in TAGS} | {"latent/to_victim": 0.0})
    assert (seen.histograms["latent/distances"] == 0).all()
    assert modes == [module.training for module in model.modules()]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_that_is_moved_is_seen_to_move(victim: Classifier, dataset: Dataset) -> None:
    probe = make_probe(victim, dataset.test, "layer1", CPU)
    other = copy.deepcopy(victim)
    with torch.no_grad():
        other.backbone.fc.bias.add_(torch.linspace(-9, 9, 10))
    moved = probe(other).scalars
    assert moved["latent/to_victim"] == 0, "the cut lies before the last layer"
    assert moved["evasion/matching_rate"] < 1
    assert moved["evasion/ddv"] < 0.999


def test_moved_images_are_near_their_image_and_far_in_another_class(victim: Classifier, dataset: Dataset) -> None:
    probe = make_probe(victim, dataset.test, None, CPU)
    images, moved = probe.queries_QCHW.chunk(2)
    assert len(images) > 8
    assert (moved - images).abs().max() <= STEPS * STEP_SIZE + 1e-6
    assert 0 <= moved.min() <= moved.max() <= 1
    crossed = victim(images).argmax(1) != victim(moved).argmax(1)
    assert crossed.float().mean() > 0.9


def test_a_victim_that_knows_one_class_has_no_probes(victim: Classifier, dataset: Dataset) -> None:
    constant = copy.deepcopy(victim)
    with torch.no_grad():
        constant.backbone.fc.weight.zero_()
    assert not make_probe(constant, dataset.test, "layer1", CPU)(victim).scalars
