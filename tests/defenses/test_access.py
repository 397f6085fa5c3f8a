"""What each defence needs of a suspect: a black box that shows it gets the scores that its weights get."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from rnet.defenses.base import Fingerprint
from rnet.defenses.metric import Metric
from rnet.defenses.negatives import Negatives
from rnet.defenses.random_queries.config import RandomQueriesConfig
from rnet.defenses.random_queries.defense import RandomQueries
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError
from rnet.models.access import LEVELS, Access, limit_access, suffices
from rnet.models.black_box import BlackBox
from tests.defenses.test_contract import extracted, make
from tests.defenses.tiny import TinyCNN, tiny_model

ROOT = Path(__file__).resolve().parents[2]

NEEDED: dict[str, dict[Access, set[str]]] = {
    "ipguard": {"labels": {"matching_rate"}},
    "akh": {"labels": {"disagreement"}},
    "random": {"labels": {"agreement"}},
    "dataset_inference": {"labels": {"p_value", "log10_p_value"}},
    "deepjudge": {"labels": {"robd"}, "probabilities": {"jsd"}, "white_box": {"lod", "lad", "nod", "nad"}},
    "modeldiff": {"logits": {"ddv", "ddm"}},
    "zest": {"logits": {"l1", "l2", "linf", "cosine"}},
    "sac": {"logits": {"wrong", "cutmix", "jpeg"}},
}
"""By defence, what each of its metrics needs at least."""

SHOWS = {
    "labels": lambda logits_NK: logits_NK.argmax(dim=1),
    "probabilities": lambda logits_NK: logits_NK.softmax(dim=1),
    "log_probabilities": lambda logits_NK: logits_NK.log_softmax(dim=1),
    "logits": lambda logits_NK: logits_NK,
}
ACCESS: dict[str, Access] = {kind: kind for kind in get_args(Access)} | {"log_probabilities": "probabilities"}


def black_box(model: TinyCNN, kind: str) -> BlackBox:
    def answer(x_BCHW: Tensor) -> Tensor:
        return SHOWS[kind](model(x_BCHW))

    return BlackBox(answer, "attack.function='m:f'", num_classes=4, kind=kind, batch_size=16)


def shown_by(name: str, access: Access) -> set[str]:
    return {metric for needed, metrics in NEEDED[name].items() if suffices(access, needed) for metric in metrics}


def test_every_metric_declares_what_it_needs() -> None:
    declared: dict[str, dict[Access, set[str]]] = {}
    for name in DEFENSES.names():
        for metric in make(name).metrics:
            declared.setdefault(name, {}).setdefault(make(name).access(metric), set()).add(metric.name)
    assert declared == NEEDED


@pytest.mark.parametrize("kind", SHOWS)
@pytest.mark.parametrize("name", sorted(NEEDED))
def test_a_black_box_gets_the_scores_of_its_weights_for_what_it_shows(name: str, kind: str) -> None:
    defense, suspect = make(name), tiny_model(5)
    expected = defense.verify(extracted(name), suspect)
    shown = shown_by(name, ACCESS[kind])
    if not shown:
        with pytest.raises(UserError, match=f"^defense={name} needs logits, but the suspect shows {ACCESS[kind]} only"):
            defense.test(extracted(name), black_box(suspect, kind))
        return
    found = defense.test(extracted(name), black_box(suspect, kind))
    assert found.scores == pytest.approx({metric: expected[metric] for metric in shown}, rel=1e-4, abs=1e-6)
    assert found.left_out.keys() == expected.keys() - shown
    assert all(reason.endswith(f"but the suspect shows {ACCESS[kind]} only") for reason in found.left_out.values())


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_a_model_with_weights_is_tested_by_everything(name: str) -> None:
    found = make(name).test(extracted(name), tiny_model(5))
    assert found.scores == make(name).verify(extracted(name), tiny_model(5))
    assert found.left_out == {}


def test_a_model_of_another_architecture_is_not_compared_neuron_by_neuron() -> None:
    suspect = tiny_model(5, width=7)
    limit_access(suspect, "logits", "is another network")
    found = make("deepjudge").test(extracted("deepjudge"), suspect)
    assert found.scores.keys() == {"robd", "jsd"}
    assert set(found.left_out.values()) == {
        "needs weights in the victim's architecture, but the suspect is another network"
    }


@pytest.mark.parametrize(("name", "setting"), [("ipguard", "suspect_mode"), ("modeldiff", "model_mode")])
def test_verification_in_train_mode_needs_the_model_itself(name: str, setting: str) -> None:
    defense = make(name, **{setting: "train"})
    with pytest.raises(UserError, match="needs weights in the victim's architecture"):
        defense.test(extracted(name), black_box(tiny_model(5), "logits"))


@pytest.mark.parametrize(
    ("name", "changes", "left_out"),
    [
        ("deepjudge", {"white_box": False}, {"jsd"}),
        ("deepjudge", {"black_box": False}, None),
        ("sac", {"inputs": ["cutmix"]}, None),
    ],
)
def test_only_metrics_that_are_asked_for_are_left_out(
    name: str, changes: dict[str, object], left_out: set[str] | None
) -> None:
    box = black_box(tiny_model(5), "labels")
    box(torch.zeros(1, 3, 12, 12))
    defense = make(name, **changes)
    if left_out is None:
        assert defense.left_out(box).keys() == {metric.name for metric in defense.asked_for()}
        with pytest.raises(UserError, match=f"defense={name} needs"):
            defense.test(extracted(name), box)
    else:
        assert defense.left_out(box).keys() == left_out


def test_scores_of_metrics_that_are_left_out_are_not_used() -> None:
    class Careless(RandomQueries):
        """Computes everything from whatever it gets."""

        metrics = (*RandomQueries.metrics, Metric(name="entropy", direction="distance", low=0.0, high=9.0))

        def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
            return {**super().verify(fingerprint, suspect), "entropy": 1.0}

    defense = Careless(RandomQueriesConfig(num_queries=24))
    found = defense.test(extracted("random"), black_box(tiny_model(5), "labels"))
    assert [*found.scores] == ["agreement"]
    assert [*found.left_out] == ["entropy"]
    assert "jsd" not in make("deepjudge").verify(extracted("deepjudge"), black_box(tiny_model(5), "labels"))


def test_a_vote_is_held_among_the_metrics_that_are_there() -> None:
    defense = make("deepjudge")
    negatives = Negatives.of([defense.verify(extracted("deepjudge"), tiny_model(seed)) for seed in (6, 7, 8)])
    scores = defense.test(extracted("deepjudge"), black_box(tiny_model(0), "labels")).scores
    judged = defense.judge(scores, negatives, 0.05)
    assert [*judged.metrics] == ["robd"]
    assert judged.vote is not None
    assert " of 1 metrics vote" in judged.vote.reason


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_the_list_of_defences_says_what_each_needs(name: str) -> None:
    comment = (ROOT / "configs" / "defense" / f"{name}.yaml").read_text().splitlines()[0]
    assert named(comment.partition("; needs ")[2]) == {*NEEDED[name]}


def test_the_page_on_verdicts_says_what_each_metric_needs() -> None:
    shown: dict[str, dict[Access, set[str]]] = {}
    for line in (ROOT / "docs" / "verdicts.md").read_text().splitlines():
        if found := re.match(r"\| `(\w+)/(\w+)`(.*?) \|.*\| (labels|probabilities|logits|weights) \|$", line):
            name, first, others, needed = found.groups()
            (access,) = named(needed)
            shown.setdefault(name, {}).setdefault(access, set()).update({first, *re.findall(r"`(\w+)`", others)})
    assert shown == NEEDED


def test_the_page_on_suspects_says_what_can_be_judged_by_what_is_shown() -> None:
    shown: dict[str, dict[Access, set[str]]] = {}
    for line in (ROOT / "docs" / "suspects.md").read_text().splitlines():
        if found := re.match(r"\| (labels|probabilities|logits|weights)\b[^|]*\|(.*)\|$", line):
            (access,) = named(found[1])
            for name, metrics in re.findall(r"`(\w+)/([\w, ]+)`", found[2]):
                shown.setdefault(name, {})[access] = {*metrics.split(", ")}
    assert shown == NEEDED


def named(text: str) -> set[Access]:
    """The levels of access that a text for people names."""
    words: dict[str, Access] = {"weights": "white_box"} | {level: level for level in LEVELS}  # type: ignore[dict-item]
    return {words[word] for word in re.findall(r"\w+", text) if word in words}


def test_levels_are_in_the_order_of_what_they_show() -> None:
    assert get_args(Access) == LEVELS
