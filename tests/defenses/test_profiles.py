"""The profiles of IPGuard, ModelDiff, SAC, Dataset Inference and AKH: every choice of each, and that they run."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from rnet import make_defense
from rnet.config.profiles import profiles_of
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError
from tests.defenses.tiny import tiny_dataset, tiny_model

IPGUARD = {"num_queries": 100, "steps": 1000, "box": False}
MODELDIFF = {"num_pairs": 100}

CHOICES: dict[tuple[str, str], dict[str, Any]] = {
    ("ipguard", "original"): IPGUARD | {
        "images": "train", "target": "least_likely", "stop": "margin", "k": 5.0, "learning_rate": 0.001,
        "units": "pixels", "adam": "keras", "rebuild_adam": False, "suspect_mode": "eval",
    },
    ("ipguard", "qurd"): IPGUARD | {
        "images": "test", "target": "any", "stop": "flip", "k": 10.0, "learning_rate": 0.01,
        "units": "pixels", "adam": "torch", "rebuild_adam": False, "suspect_mode": "eval",
    },
    ("ipguard", "released"): IPGUARD | {
        "images": "test", "target": "least_likely", "stop": "margin", "k": 0.01, "learning_rate": 0.01,
        "units": "normalised", "adam": "torch", "rebuild_adam": True, "suspect_mode": "train",
    },
    ("modeldiff", "original"): MODELDIFF | {
        "images": "train", "pairs": "original", "epsilon": 0.06, "step": 0.01, "steps": 50,
        "partners": "seeds", "model_mode": "eval", "goal": "distance_and_diversity", "box": True,
    },
    ("modeldiff", "released"): MODELDIFF | {
        "images": "test", "pairs": "search", "epsilon": 1.0, "step": None, "steps": 1000,
        "partners": "halves", "model_mode": "train", "goal": "diversity", "box": False,
    },
    ("sac", "original"): {
        "inputs": ["wrong", "cutmix"], "num_queries": 100, "patch": 0.2, "border": "cut", "jpeg_quality": 25,
    },
    ("dataset_inference", "original"): {
        "walk": "blind", "rows": "notebook", "num_regressor_images": 500, "num_suspect_images": 500,
        "num_directions": 10, "max_multiple": 50, "capped_multiple": 51, "linf_radius": 0.005, "l2_std": 0.005,
        "l1_scale": 0.01, "mingd_steps": 500, "mingd_linf_step": 0.001, "mingd_l2_step": 0.01, "mingd_l1_step": 1.0,
        "mingd_pixels": 100, "mingd_gap": 0.001, "hidden_size": 100, "learning_rate": 0.1, "regressor_steps": 1000,
        "sample_size": 10, "num_draws": 100,
    },
    ("akh", "original"): {"num_queries": 100, "fill": "cutmix"},
}  # fmt: skip
"""Every setting that is part of an id, by defence and profile."""

SMALL: dict[str, dict[str, Any]] = {
    "ipguard": {"num_queries": 12, "steps": 20},
    "modeldiff": {"num_pairs": 12, "steps": 20},
    "sac": {"num_queries": 20},
    "akh": {"num_queries": 60},
    "dataset_inference": {
        "num_regressor_images": 24, "num_suspect_images": 24, "num_directions": 2, "max_multiple": 5,
        "capped_multiple": 6, "regressor_steps": 20, "sample_size": 8, "num_draws": 5,
    },
}  # fmt: skip
"""Sizes that a test can afford, under which the choices of a profile stay what they are."""

DATASET, VICTIM = tiny_dataset(), tiny_model(0)
EACH = pytest.mark.parametrize(("defense", "profile"), CHOICES, ids="-".join)


def test_the_table_names_every_profile_of_these_defences() -> None:
    assert {*CHOICES} == {(defense, profile) for defense in SMALL for profile in profiles_of(defense)}


@EACH
def test_a_profile_sets_every_choice_of_its_source(defense: str, profile: str) -> None:
    config = make_defense(defense, profile=profile).config
    hashed = {field.name for field in dataclasses.fields(config) if not field.metadata.get("execution_only")}
    assert {name: getattr(config, name) for name in hashed - {"name"}} == CHOICES[defense, profile]


@EACH
def test_what_the_user_sets_goes_over_every_value_of_a_profile(defense: str, profile: str) -> None:
    own = DEFENSES.config_class(defense)()
    for name, value in CHOICES[defense, profile].items():
        if getattr(own, name) == value or (defense == "modeldiff" and name in ("pairs", "goal", "box", "step")):
            continue  # the last are read by one kind of pairs only, so they cannot be changed alone
        config = make_defense(defense, profile=profile, **{name: getattr(own, name)}).config
        expected = CHOICES[defense, profile] | {name: getattr(own, name)}
        assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize("defense", sorted(SMALL))
def test_a_profile_that_does_not_exist_is_one_line_with_those_that_do(defense: str) -> None:
    with pytest.raises(UserError, match=r"orginal.*did you mean original") as caught:
        make_defense(defense, profile="orginal")
    assert "\n" not in str(caught.value)


@EACH
def test_a_defence_runs_under_each_of_its_profiles(defense: str, profile: str) -> None:
    made = make_defense(defense, profile=profile, **SMALL[defense])
    fingerprint = made.extract(VICTIM, DATASET, seed=3)
    again = made.extract(VICTIM, DATASET, seed=3)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in fingerprint.tensors.items())
    scores = made.verify(fingerprint, VICTIM)
    assert scores.keys() == {metric.name for metric in made.asked_for()}
    if defense == "dataset_inference":
        assert scores["p_value"] == fingerprint.metadata["victim_p_value"]
    elif profile != "released":  # whose train mode makes even the victim differ from itself
        assert scores == {metric.name: metric.perfect for metric in made.asked_for()}
    assert made.verify(fingerprint, tiny_model(5)) != scores
