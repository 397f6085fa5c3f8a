"""What every defence promises, one case each: DESIGN's contract of extract and verify, and what is refused."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from rnet.defenses.base import Defense, Fingerprint
from rnet.defenses.fingerprint_file import load_fingerprint, save_fingerprint
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError
from tests.defenses.tiny import TinyCNN, tiny_dataset, tiny_model, unchanged

SIZES = {"image_size": 12, "train": 60, "test": 60}
DATASET = tiny_dataset(**SIZES)
VICTIM = tiny_model(0)

SMALL: dict[str, dict[str, Any]] = {
    "ipguard": {"num_queries": 12, "steps": 60},
    "modeldiff": {"num_pairs": 12, "steps": 8},
    "zest": {"num_images": 4, "num_masks": 40, "max_dist": 6.0},
    "deepjudge": {
        "layer": "block1", "num_seeds": 12, "min_seeds": 2, "num_fuzz_seeds": 3, "max_steps": 20,
        "threshold_factor": 1.4, "step_size": 0.05,
    },
    "sac": {"num_queries": 20},
    "akh": {"num_queries": 24},
    "dataset_inference": {
        "num_regressor_images": 24, "num_suspect_images": 24, "num_directions": 2, "max_multiple": 12,
        "linf_radius": 0.03, "l2_std": 0.03, "l1_scale": 0.03, "hidden_size": 16, "regressor_steps": 50,
        "sample_size": 8, "num_draws": 20,
    },
    "random": {"num_queries": 24},
}  # fmt: skip

REFUSED_SETTINGS = [
    ("ipguard", {"num_queries": 0}, "num_queries=0"),
    ("ipguard", {"steps": 0}, "steps=0"),
    ("ipguard", {"memory_mb": 0}, "memory_mb=0"),
    ("ipguard", {"learning_rate": 0.0}, "learning_rate=0.0"),
    ("ipguard", {"k": -1.0}, "k=-1.0"),
    ("ipguard", {"k": float("nan")}, "k=nan"),
    ("ipguard", {"target": "least-likely"}, "target='least-likely'.*did you mean least_likely"),
    ("ipguard", {"stop": "flipp"}, "stop='flipp'.*did you mean flip"),
    ("ipguard", {"images": "tests"}, "images='tests'.*did you mean test"),
    ("ipguard", {"units": "normalized"}, "units='normalized'.*did you mean normalised"),
    ("ipguard", {"adam": "kera"}, "adam='kera'.*did you mean keras"),
    ("ipguard", {"suspect_mode": "trained"}, "suspect_mode='trained'.*did you mean train"),
    ("modeldiff", {"num_pairs": 0}, "num_pairs=0"),
    ("modeldiff", {"steps": 0}, "steps=0"),
    ("modeldiff", {"memory_mb": 0}, "memory_mb=0"),
    ("modeldiff", {"epsilon": 0.0}, "epsilon=0.0"),
    ("modeldiff", {"step": -0.1}, "step=-0.1"),
    ("modeldiff", {"pairs": "orignal"}, "pairs='orignal'.*did you mean original"),
    ("modeldiff", {"num_pairs": 7, "partners": "halves"}, "num_pairs=7 must be even"),
    ("modeldiff", {"pairs": "serch"}, "pairs='serch'.*did you mean search"),
    ("modeldiff", {"goal": "diversity"}, "goal and defense.box are read by defense.pairs=search, not by default"),
    (
        "modeldiff",
        {"box": False, "pairs": "original"},
        "goal and defense.box are read by defense.pairs=search, not by original",
    ),
    ("modeldiff", {"step": 0.1, "pairs": "search"}, "step=0.1 is not read by defense.pairs=search"),
    ("modeldiff", {"model_mode": "evil"}, "model_mode='evil'.*did you mean eval"),
    ("zest", {"num_images": 0}, "num_images=0.*give at least 1"),
    ("zest", {"num_masks": 1}, "num_masks=1.*give at least 2"),
    ("zest", {"kernel_size": 0.5}, "kernel_size=0.5.*give at least 1"),
    ("zest", {"memory_mb": 0}, "memory_mb=0.*give at least 1"),
    ("zest", {"ratio": 0.0}, "ratio=0.0.*above 0 and at most 1"),
    ("zest", {"max_dist": 0.0}, "max_dist=0.0.*above 0"),
    ("zest", {"align": "alway"}, "align='alway'.*did you mean always"),
    ("zest", {"masks": "redraw"}, "masks='redraw'.*did you mean redrawn"),
    ("zest", {"segmented": "three"}, "segmented='three'.*first_three"),
    ("zest", {"images": "tests"}, "images='tests'.*did you mean test"),
    ("zest", {"model_mode": "training"}, "model_mode='training'.*did you mean train"),
    ("deepjudge", {"attack": "pgdd"}, "attack='pgdd' does not exist; did you mean pgd"),
    ("deepjudge", {"neuron": "columns"}, "neuron='columns'.*did you mean column"),
    ("deepjudge", {"layers": "every"}, "layers='every'.*all, headline"),
    ("deepjudge", {"threshold_margin": -0.1}, "threshold_margin=-0.1 must not be negative"),
    ("deepjudge", {"black_box": False, "white_box": False}, "black_box.*switch at least one on"),
    ("deepjudge", {"num_seeds": 5, "min_seeds": 6}, r"min_seeds=6 exceeds defense\.num_seeds=5"),
    ("deepjudge", {"max_steps": 0}, "max_steps=0 must be at least 1"),
    ("deepjudge", {"learning_rate": 0.0}, "learning_rate=0.0 must be greater than 0"),
    ("deepjudge", {"max_neurons": 0}, "max_neurons=0"),
    ("deepjudge", {"cw_confidence": -1.0}, "cw_confidence=-1.0"),
    ("sac", {"num_queries": 9}, "num_queries=9.*at least 10"),
    ("sac", {"batch_size": 0}, "batch_size=0.*at least 1"),
    ("sac", {"inputs": ["jpg"]}, "inputs='jpg'.*did you mean jpeg"),
    ("sac", {"inputs": []}, "inputs is empty; name at least one"),
    ("sac", {"patch": 1.0}, "patch=1.0.*between 0 and 1"),
    ("sac", {"border": "cutt"}, "border='cutt'.*did you mean cut"),
    ("sac", {"jpeg_quality": 0}, "jpeg_quality=0.*1 to 95"),
    ("akh", {"num_queries": 9}, "num_queries=9"),
    ("akh", {"fill": "cut_mix"}, "fill='cut_mix'.*did you mean cutmix"),
    ("akh", {"batch_size": 0}, "batch_size=0"),
    ("dataset_inference", {"sample_size": 25}, r"sample_size=25 exceeds defense\.num_suspect_images=24"),
    ("dataset_inference", {"sample_size": 1}, "sample_size=1 must be at least 2"),
    ("dataset_inference", {"max_multiple": 0}, "max_multiple=0 must be at least 1"),
    ("dataset_inference", {"l1_scale": 0.0}, "l1_scale=0.0 must be greater than 0"),
    ("dataset_inference", {"walk": "blinde"}, "walk='blinde'.*did you mean blind"),
    ("dataset_inference", {"rows": "images"}, "rows='images'.*did you mean image"),
    ("dataset_inference", {"capped_multiple": 0}, "capped_multiple=0 must be at least 1"),
    ("random", {"num_queries": 9}, "num_queries=9"),
    ("random", {"batch_size": 0}, "batch_size=0"),
]

TOO_FEW_IMAGES = [
    ("ipguard", {"train": 11}, r"defense\.num_queries=12 .* 11"),
    ("modeldiff", {"train": 11}, r"defense\.num_pairs=12 .* 11"),
    ("zest", {"train": 3}, r"defense\.num_images=4 but the training part of dataset tiny has 3"),
    ("deepjudge", {"test": 1}, r"only [01] of 1 test images correctly.*defense\.min_seeds=2"),
    ("sac", {"test": 9}, "dataset tiny has 9 test images; SAC needs at least 10"),
    ("akh", {"train": 4, "test": 5}, r"only \d of the 5 test and 4 training images of dataset tiny wrong"),
    ("dataset_inference", {"train": 40}, "= 48 needs as many train images, but dataset tiny has 40"),
    ("dataset_inference", {"test": 40}, "= 48 needs as many test images, but dataset tiny has 40"),
    ("random", {"test": 23}, r"defense\.num_queries=24 .* dataset tiny has 23"),
]

CLASS_BY_CLASS = sorted({*SMALL} - {"sac", "zest"})
"""SAC compares answers with a model's own, and ZEST matches classes: both take suspects with other classes."""


def make(name: str, **changes: object) -> Defense:
    return DEFENSES.build(DEFENSES.config_class(name)(**{**SMALL[name], **changes}))


@pytest.fixture(params=sorted(SMALL))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@cache
def extracted(name: str) -> Fingerprint:
    return make(name).extract(VICTIM, DATASET, seed=1)


@pytest.fixture
def fingerprint(name: str) -> Fingerprint:
    return extracted(name)


def broken(seed: int, value: float) -> TinyCNN:
    model = tiny_model(seed)
    model.classifier.bias.data[0] = value
    return model


def test_the_table_names_every_defence() -> None:
    assert {*SMALL} == {*DEFENSES.names()}


def test_a_victim_and_its_exact_copy_have_the_perfect_score(name: str, fingerprint: Fingerprint) -> None:
    scores = make(name).verify(fingerprint, VICTIM)
    assert make(name).verify(fingerprint, copy.deepcopy(VICTIM)) == scores
    if name == "dataset_inference":  # even the victim's own p is a matter of luck; it is kept
        assert scores["p_value"] == fingerprint.metadata["victim_p_value"]
    else:
        assert scores == {metric.name: metric.perfect for metric in make(name).metrics}


def test_scores_of_another_model_are_named_and_bounded_as_declared(name: str, fingerprint: Fingerprint) -> None:
    scores = make(name).verify(fingerprint, tiny_model(5))
    assert list(scores) == [metric.name for metric in make(name).metrics]
    for metric in make(name).metrics:
        assert metric.low <= scores[metric.name] <= metric.high
        assert scores[metric.name] != metric.perfect


def test_the_metadata_of_all_fingerprints_have_the_same_names(name: str, fingerprint: Fingerprint) -> None:
    expected = {"defense": name, "dataset": "tiny", "seed": 1, "num_classes": 4, "input_shape": [3, 12, 12]}
    assert fingerprint.metadata.items() >= expected.items()


def test_a_fingerprint_depends_on_victim_data_and_seed_only(name: str, fingerprint: Fingerprint) -> None:
    torch.manual_seed(99)
    again, other = (make(name).extract(VICTIM, DATASET, seed) for seed in (1, 2))
    assert again.metadata == fingerprint.metadata
    assert again.tensors.keys() == fingerprint.tensors.keys()
    assert all(torch.equal(again.tensors[key], tensor) for key, tensor in fingerprint.tensors.items())
    shapes = {key: tensor.shape for key, tensor in other.tensors.items()}
    assert any(shapes[key] != t.shape or not torch.equal(other.tensors[key], t) for key, t in again.tensors.items())


def test_a_fingerprint_survives_storage(name: str, fingerprint: Fingerprint, tmp_path: Path) -> None:
    save_fingerprint(tmp_path, fingerprint, victim_id="v")
    stored = load_fingerprint(tmp_path, victim_id="v")
    assert stored.metadata == fingerprint.metadata
    assert stored.tensors.keys() == fingerprint.tensors.keys()
    assert all(torch.equal(stored.tensors[key], tensor) for key, tensor in fingerprint.tensors.items())
    assert make(name).verify(stored, VICTIM) == make(name).verify(fingerprint, VICTIM)


def test_models_in_train_mode_are_asked_in_eval_mode_and_left_untouched(name: str, fingerprint: Fingerprint) -> None:
    victim, suspect = tiny_model(0).train(), tiny_model(5).train()
    suspect.block1.eval()
    suspect.classifier.weight.requires_grad_(False)
    suspect(DATASET.train.pixels()).sum().backward()
    expected = make(name).verify(fingerprint, copy.deepcopy(suspect).eval())
    with unchanged(victim, suspect):
        assert make(name).verify(fingerprint, suspect) == expected
        found = make(name).extract(victim, DATASET, seed=1)
    assert all(torch.equal(found.tensors[key], tensor) for key, tensor in fingerprint.tensors.items())


def test_a_model_with_broken_logits_is_refused(name: str, fingerprint: Fingerprint) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="suspect TinyCNN returns non-finite logits"):
            make(name).verify(fingerprint, broken(5, value))
        with pytest.raises(UserError, match="victim TinyCNN returns non-finite logits"):
            make(name).extract(broken(0, value), DATASET, seed=1)


@pytest.mark.parametrize("name", CLASS_BY_CLASS, scope="module")
def test_a_suspect_with_other_classes_is_refused(name: str, fingerprint: Fingerprint) -> None:
    with pytest.raises(UserError, match=r"suspect has 6 classes .* victim has 4.*zest"):
        make(name).verify(fingerprint, tiny_model(1, num_classes=6))


@pytest.mark.parametrize(
    ("defense", "changes", "message"), REFUSED_SETTINGS, ids=[f"{n}-{'-'.join(c)}" for n, c, _ in REFUSED_SETTINGS]
)
def test_wrong_settings_are_refused_by_name(defense: str, changes: dict[str, Any], message: str) -> None:
    make(defense)
    with pytest.raises(UserError, match=rf"defense\.{message}"):
        make(defense, **changes)


@pytest.mark.parametrize(("defense", "few", "message"), TOO_FEW_IMAGES)
def test_too_few_images_are_refused_with_their_number(defense: str, few: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(defense).extract(VICTIM, tiny_dataset(**{**SIZES, **few}), seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_and_verifies_fingerprints_like_a_cpu(name: str, fingerprint: Fingerprint) -> None:
    on_gpu = make(name).extract(tiny_model(0).cuda(), DATASET, seed=1)
    assert all(tensor.device.type == "cpu" for tensor in on_gpu.tensors.values())
    assert on_gpu.tensors.keys() == fingerprint.tensors.keys()
    scores, expected = (make(name).verify(made, VICTIM) for made in (on_gpu, fingerprint))
    if name != "dataset_inference":  # a walk that ends one step later changes every weight of its regressor
        assert scores == pytest.approx(expected, abs=1e-3)
    suspect = tiny_model(5)
    on_cpu = make(name).verify(fingerprint, suspect)
    assert make(name).verify(fingerprint, suspect.cuda()) == pytest.approx(on_cpu, rel=1e-2, abs=1e-2)
