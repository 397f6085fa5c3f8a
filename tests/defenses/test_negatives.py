"""The negatives: who counts, what is said of those who do not, and their pairs."""

from __future__ import annotations

import pytest

from rnet.defenses.negatives import Negatives
from rnet.defenses.random_queries.config import RandomQueriesConfig
from rnet.defenses.random_queries.defense import RandomQueries


def negatives(accuracies: list[float], *, victim: float | None = 0.96, chance: float = 0.1) -> Negatives:
    names = [chr(ord("a") + i) for i in range(len(accuracies))]
    return Negatives(
        scores={name: {"agreement": 0.3 + i / 100} for i, name in enumerate(names)},
        accuracies=dict(zip(names, accuracies, strict=True)),
        victim_accuracy=victim,
        chance=chance,
    )


@pytest.mark.parametrize(
    ("accuracy", "victim", "chance", "counts"),
    [
        (0.54, 0.96, 0.1, True), (0.53, 0.96, 0.1, False), (0.19, 0.96, 0.1, False),
        (0.75, 0.9, 0.7, False), (0.81, 0.9, 0.7, True), (0.01, None, 0.1, True),
    ],
)  # fmt: skip
def test_a_negative_counts_above_the_middle_between_chance_and_the_victim(
    accuracy: float, victim: float | None, chance: float, counts: bool
) -> None:
    found = negatives([accuracy, victim or 1.0], victim=victim, chance=chance)
    assert (len(found.of_metric("agreement")) == 2) == counts
    assert ("a" not in found.unfit) == counts


def test_those_that_do_not_count_are_said_with_the_numbers_and_the_remedy() -> None:
    assert negatives([0.95, 0.94, 0.93]).why_left_out is None
    said = negatives([0.95, 0.19, 0.94, 0.19, 0.96]).why_left_out
    assert said == (
        "2 of 5 negatives reach 19% where the victim has 96%: not above 53%, they do not do its job and calibrate "
        "nothing; train them longer (train.epochs, train.learning_rate)"
    )
    assert "1 of 2 negatives reaches 19%" in str(negatives([0.95, 0.19]).why_left_out)
    assert "reach 10% to 30%" in str(negatives([0.3, 0.1]).why_left_out)


def test_with_fewer_than_two_that_count_a_suspect_is_undecided_for_that_reason() -> None:
    defense = RandomQueries(RandomQueriesConfig(num_queries=50))
    found = defense.judge({"agreement": 1.0}, negatives([0.19, 0.19, 0.9]), 0.05)
    assert found.overall.label == "undecided"
    assert found.overall.reason == negatives([0.19, 0.19, 0.9]).why_left_out
    assert defense.judge({"agreement": 1.0}, negatives([0.9, 0.19, 0.9]), 0.05).overall.label == "derived"


def test_negatives_clearly_worse_than_the_victim_are_warned_about() -> None:
    assert negatives([0.95, 0.87]).warning is None
    assert negatives([0.85, 0.95, 0.19]).warning == (
        "1 of 2 negatives that count reaches only 85% where the victim has 96%; a weaker model looks less derived"
    )


def test_without_one_its_scores_and_pairs_are_gone() -> None:
    scores = [{"m": float(i)} for i in range(3)]
    found = Negatives.of(scores, [{"m": 1.0}, {"m": 2.0}, {"m": 12.0}])
    assert found.pairs[("1", "2")] == {"m": 12.0}
    assert found.of_pairs("m") == [1.0, 2.0, 12.0]
    assert found.without("0").of_pairs("m") == [12.0]
    assert found.without("0").of_metric("m") == [1.0, 2.0]


def test_a_share_of_queries_is_as_fine_as_one_query() -> None:
    defense = RandomQueries(RandomQueriesConfig(num_queries=50))
    assert [m.resolution for m in defense.resolved(["agreement"], {})] == [0.02]
    assert [m.resolution for m in defense.resolved(["agreement"], {"num_queries": 20})] == [0.05]
    found = defense.judge({"agreement": 0.02}, Negatives.of([{"agreement": 0.0}] * 8), 0.05)
    assert found.overall.label == "undecided"  # one query that matches is no proof
