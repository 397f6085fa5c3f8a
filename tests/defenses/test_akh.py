"""AKH: the victim's mistakes found by a plain loop, the share of differing labels counted by hand."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.defenses.akh.config import AKHConfig
from rnet.defenses.akh.defense import AKH, find_mistakes
from rnet.defenses.base import Fingerprint
from rnet.errors import UserError
from tests.defenses.tiny import tiny_dataset, tiny_model

DATASET = tiny_dataset(train=40, test=30)
VICTIM = tiny_model(0)


def make(**changes: object) -> AKH:
    return AKH(AKHConfig(**{"num_queries": 24, **changes}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fingerprint() -> Fingerprint:
    return make().extract(VICTIM, DATASET, seed=1)


def wrong_images(victim: nn.Module, dataset: Dataset, part: str) -> list[Tensor]:
    """The images of a part that the victim gets wrong, one at a time."""
    chosen = getattr(dataset, part)
    found = []
    for i in range(len(chosen)):
        x_1CHW = chosen.pixels(torch.tensor([i]))
        with torch.no_grad():
            if int(victim(x_1CHW)[0].argmax()) != int(chosen.labels_N[i]):
                found.append(x_1CHW[0])
    return found


def same_set(a: list[Tensor], b: list[Tensor]) -> bool:
    return sorted(x.flatten().tolist() for x in a) == sorted(x.flatten().tolist() for x in b)


class AlwaysClass(nn.Module):
    """Answers one class to everything."""

    logits_K: Tensor

    def __init__(self, label: int, num_classes: int = 4) -> None:
        super().__init__()
        self.register_buffer("logits_K", torch.nn.functional.one_hot(torch.tensor(label), num_classes).float())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.logits_K.expand(len(x_BCHW), -1)


class Unreadable:
    """Images that may not be fetched."""

    def __len__(self) -> int:
        return 40

    def fetch(self, positions_B: Tensor) -> Tensor:
        raise AssertionError("these images were not needed")


def test_the_victim_and_its_exact_copy_never_disagree_with_the_fingerprint(fingerprint: Fingerprint) -> None:
    for model in (VICTIM, copy.deepcopy(VICTIM)):
        assert make().verify(fingerprint, model) == {"disagreement": 0.0}


def test_queries_are_all_test_mistakes_first_and_then_training_mistakes() -> None:
    in_test, in_train = wrong_images(VICTIM, DATASET, "test"), wrong_images(VICTIM, DATASET, "train")
    mistakes = find_mistakes(VICTIM, DATASET, 1000, seed=1, batch_size=7)
    assert len(in_test) >= 10
    assert mistakes.from_test == len(in_test)
    assert same_set(list(mistakes.queries_NCHW[: len(in_test)]), in_test)
    assert same_set(list(mistakes.queries_NCHW[len(in_test) :]), in_train)


def test_no_training_image_is_looked_at_when_the_test_part_has_enough_mistakes() -> None:
    count = len(wrong_images(VICTIM, DATASET, "test"))
    unreadable = dataclasses.replace(DATASET.train, source=Unreadable())
    few = make(num_queries=count).extract(VICTIM, dataclasses.replace(DATASET, train=unreadable), seed=1)
    assert few.metadata["num_from_test"] == few.metadata["num_queries"] == count
    more = make(num_queries=count + 1).extract(VICTIM, DATASET, seed=1)
    assert (more.metadata["num_from_test"], more.metadata["num_queries"]) == (count, count + 1)


def test_disagreement_is_the_share_of_labels_that_differ(fingerprint: Fingerprint) -> None:
    suspect = tiny_model(5)
    differing = 0
    for x_CHW in fingerprint.tensors["queries_NCHW"]:
        with torch.no_grad():
            differing += int(suspect(x_CHW[None])[0].argmax()) != int(VICTIM(x_CHW[None])[0].argmax())
    assert 0 < differing < 24
    assert make().verify(fingerprint, suspect) == {"disagreement": pytest.approx(differing / 24)}


def test_labels_are_the_victims_and_not_the_true_ones(fingerprint: Fingerprint) -> None:
    share = float((fingerprint.tensors["labels_N"] == 2).double().mean())
    assert make().verify(fingerprint, AlwaysClass(2)) == {"disagreement": pytest.approx(1 - share)}


@pytest.mark.parametrize("batch_size", [1, 7])
def test_neither_queries_nor_scores_depend_on_the_batch_size(fingerprint: Fingerprint, batch_size: int) -> None:
    defense = make(batch_size=batch_size)
    again = defense.extract(VICTIM, DATASET, seed=1)
    assert torch.equal(again.tensors["queries_NCHW"], fingerprint.tensors["queries_NCHW"])
    assert defense.verify(fingerprint, tiny_model(5)) == make().verify(fingerprint, tiny_model(5))


def test_the_score_does_not_depend_on_the_order_of_the_queries(fingerprint: Fingerprint) -> None:
    tensors = {name: tensor.flip(0) for name, tensor in fingerprint.tensors.items()}
    flipped = Fingerprint(tensors=tensors, metadata=fingerprint.metadata)
    assert make().verify(flipped, tiny_model(5)) == make().verify(fingerprint, tiny_model(5))


def test_the_fingerprint_depends_on_the_seed_only_and_survives_storage(fingerprint: Fingerprint) -> None:
    again, other = (make().extract(VICTIM, DATASET, seed).tensors for seed in (1, 2))
    stored = load(save(fingerprint.tensors))
    for name, tensor in fingerprint.tensors.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, stored[name])
    assert not torch.equal(other["queries_NCHW"], again["queries_NCHW"])


def test_models_in_train_mode_are_asked_in_eval_mode_and_left_untouched(fingerprint: Fingerprint) -> None:
    suspect, victim = tiny_model(5).train(), tiny_model(0).train()
    before = {name: tensor.clone() for name, tensor in suspect.state_dict().items()}
    assert make().verify(fingerprint, suspect) == make().verify(fingerprint, tiny_model(5))
    assert torch.equal(make().extract(victim, DATASET, 1).tensors["labels_N"], fingerprint.tensors["labels_N"])
    assert all(module.training for module in (*suspect.modules(), *victim.modules()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in suspect.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in suspect.parameters())


def test_fewer_mistakes_than_asked_for_are_all_used_and_counted() -> None:
    total = sum(len(wrong_images(VICTIM, DATASET, part)) for part in ("test", "train"))
    fingerprint = make(num_queries=1000).extract(VICTIM, DATASET, seed=0)
    assert fingerprint.metadata["num_queries"] == len(fingerprint.tensors["labels_N"]) == total
    assert fingerprint.metadata["num_queries_asked"] == 1000


def test_fewer_than_ten_mistakes_are_refused() -> None:
    small = tiny_dataset(train=4, test=5)
    with pytest.raises(UserError, match=r"only \d of the 5 test and 4 training images of dataset tiny wrong"):
        make().extract(VICTIM, small, seed=0)


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
