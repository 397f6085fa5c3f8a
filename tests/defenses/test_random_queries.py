"""Random queries: agreement counted label by label."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load, save

from rnet.defenses.base import Fingerprint
from rnet.defenses.random_queries.config import RandomQueriesConfig
from rnet.defenses.random_queries.defense import RandomQueries
from rnet.errors import UserError
from tests.defenses.tiny import tiny_dataset, tiny_model

DATASET = tiny_dataset(test=40)
VICTIM = tiny_model(0)


def make(**changes: object) -> RandomQueries:
    return RandomQueries(RandomQueriesConfig(**{"num_queries": 24, **changes}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fingerprint() -> Fingerprint:
    return make().extract(VICTIM, DATASET, seed=1)


def test_the_victim_and_its_exact_copy_agree_on_everything(fingerprint: Fingerprint) -> None:
    for model in (VICTIM, copy.deepcopy(VICTIM)):
        assert make().verify(fingerprint, model) == {"agreement": 1.0}


def test_agreement_is_the_share_of_equal_labels(fingerprint: Fingerprint) -> None:
    suspect, equal = tiny_model(5), 0
    for x_CHW in fingerprint.tensors["queries_NCHW"]:
        with torch.no_grad():
            equal += int(suspect(x_CHW[None])[0].argmax()) == int(VICTIM(x_CHW[None])[0].argmax())
    assert 0 < equal < 24
    assert make().verify(fingerprint, suspect) == {"agreement": pytest.approx(equal / 24)}


def test_queries_are_distinct_unaltered_test_images(fingerprint: Fingerprint) -> None:
    images_NCHW = DATASET.test.pixels()
    rows = [
        next(i for i, image in enumerate(images_NCHW) if torch.equal(image, x))
        for x in fingerprint.tensors["queries_NCHW"]
    ]
    assert len(set(rows)) == len(rows) == 24


def test_the_fingerprint_depends_on_the_seed_only_and_survives_storage(fingerprint: Fingerprint) -> None:
    again, other = (make().extract(VICTIM, DATASET, seed).tensors for seed in (1, 2))
    stored = load(save(fingerprint.tensors))
    for name, tensor in fingerprint.tensors.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, stored[name])
    assert not torch.equal(other["queries_NCHW"], again["queries_NCHW"])


def test_scores_depend_neither_on_batch_size_nor_on_the_order_of_queries(fingerprint: Fingerprint) -> None:
    tensors = {name: tensor.flip(0) for name, tensor in fingerprint.tensors.items()}
    flipped = Fingerprint(tensors=tensors, metadata=fingerprint.metadata)
    suspect = tiny_model(5)
    expected = make().verify(fingerprint, suspect)
    assert make(batch_size=7).verify(fingerprint, suspect) == expected
    assert make().verify(flipped, suspect) == expected


def test_models_in_train_mode_are_asked_in_eval_mode_and_left_untouched(fingerprint: Fingerprint) -> None:
    suspect, victim = tiny_model(5).train(), tiny_model(0).train()
    before = {name: tensor.clone() for name, tensor in suspect.state_dict().items()}
    assert make().verify(fingerprint, suspect) == make().verify(fingerprint, tiny_model(5))
    assert torch.equal(make().extract(victim, DATASET, 1).tensors["labels_N"], fingerprint.tensors["labels_N"])
    assert all(module.training for module in (*suspect.modules(), *victim.modules()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in suspect.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in suspect.parameters())


def test_too_few_test_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"defense.num_queries=41 .* dataset tiny has 40"):
        make(num_queries=41).extract(VICTIM, DATASET, seed=0)


def test_another_number_of_classes_is_refused(fingerprint: Fingerprint) -> None:
    with pytest.raises(UserError, match=r"6 classes .* victim has 4"):
        make().verify(fingerprint, tiny_model(1, num_classes=6))


def test_non_finite_logits_are_refused(fingerprint: Fingerprint) -> None:
    suspect = tiny_model(1)
    suspect.classifier.bias.data[0] = float("inf")
    with pytest.raises(UserError, match="suspect TinyCNN returns non-finite logits"):
        make().verify(fingerprint, suspect)


@pytest.mark.parametrize(("key", "value"), [("num_queries", 9), ("batch_size", 0)])
def test_wrong_settings_are_refused_by_name(key: str, value: int) -> None:
    with pytest.raises(UserError, match=f"defense.{key}={value}"):
        make(**{key: value})
