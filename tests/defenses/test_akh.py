"""AKH: the victim's mistakes found by a plain loop, the share of differing labels counted by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.defenses.akh.config import AKHConfig
from rnet.defenses.akh.defense import AKH, filled_up, find_mistakes
from rnet.defenses.base import Fingerprint
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


def test_fewer_mistakes_than_asked_for_are_all_used_and_counted() -> None:
    total = sum(len(wrong_images(VICTIM, DATASET, part)) for part in ("test", "train"))
    fingerprint = make(num_queries=1000).extract(VICTIM, DATASET, seed=0)
    assert fingerprint.metadata["num_queries"] == len(fingerprint.tensors["labels_N"]) == total
    assert fingerprint.metadata["num_queries_asked"] == 1000


def test_mixtures_fill_up_where_the_test_part_has_too_few_mistakes() -> None:
    natural = wrong_images(VICTIM, DATASET, "test")
    unreadable = dataclasses.replace(DATASET.train, source=Unreadable())
    only_test = dataclasses.replace(DATASET, train=unreadable)
    found = make(num_queries=100, fill="cutmix").extract(VICTIM, only_test, seed=1)
    queries_NCHW = found.tensors["queries_NCHW"]
    assert found.metadata["num_queries"] == len(queries_NCHW) == 100
    assert found.metadata["num_from_test"] == len(natural)
    assert same_set(list(queries_NCHW[: len(natural)]), natural)
    with torch.no_grad():
        assert torch.equal(found.tensors["labels_N"], VICTIM(queries_NCHW).argmax(dim=1))
    enough = make(num_queries=len(natural), fill="cutmix").extract(VICTIM, only_test, seed=1)
    assert same_set(list(enough.tensors["queries_NCHW"]), natural)


@pytest.mark.parametrize("seed", range(6))
def test_a_mixture_is_one_box_of_the_next_image_and_its_two_mirror_images(seed: int) -> None:
    images_NCHW = DATASET.test.pixels(torch.arange(12))
    filled_NCHW = filled_up(images_NCHW, 12 + 36 + 10, seed)
    assert len(filled_NCHW) == 58
    assert torch.equal(filled_NCHW[:12], images_NCHW)
    mixed_NCHW, mirrored_NCHW, upside_down_NCHW = filled_NCHW[12:48].chunk(3)
    assert torch.equal(mirrored_NCHW, mixed_NCHW.flip(3))
    assert torch.equal(upside_down_NCHW, mixed_NCHW.flip(2))
    pasted = (mixed_NCHW != images_NCHW).any(dim=1)
    assert bool((pasted == pasted[0]).all())
    rows, columns = (pasted[0].any(dim=dim).nonzero().squeeze(1).tolist() for dim in (1, 0))
    assert int(pasted[0].sum()) == len(rows) * len(columns)
    for n in range(12):
        assert torch.equal(mixed_NCHW[n][:, pasted[0]], images_NCHW[n - 1][:, pasted[0]])
    other_NCHW = filled_NCHW[48:]
    assert not torch.equal(other_NCHW, mixed_NCHW[:10])


def test_boxes_have_an_area_of_one_half_on_average_before_they_are_cut() -> None:
    zeros_and_ones = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 64, 64)
    shares = []
    for seed in range(300):
        mixed = filled_up(zeros_and_ones, 4, seed)[2:]
        shares.append(float(mixed[0].mean()))
        assert float(mixed[1].mean()) == pytest.approx(1 - shares[-1])
    # Uniform areas in (0, 1) around uniform centres: a box of half-side h keeps (1 - h/2)^2 of (2h)^2 on average.
    expected = sum((2 * h * (1 - h / 2)) ** 2 for h in (0.5 * ((i + 0.5) / 1000) ** 0.5 for i in range(1000))) / 1000
    assert sum(shares) / len(shares) == pytest.approx(expected, abs=0.04)
