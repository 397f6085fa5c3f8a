"""The tables of a small study, number by number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rnet.errors import UserError
from rnet.report.records import Study
from rnet.report.statistics import Summary
from rnet.report.tables import TABLES, make_tables
from tests.report.studies import METRIC, SCORES, study, trial, unfinished


def lines(name: str, of: Study, **where: Any) -> list[dict[str, Any]]:
    """The table's lines with these values."""
    (table,) = make_tables(of, [name])
    return [dict(line) for line in table.lines if all(line.get(key) == value for key, value in where.items())]


def the(name: str, of: Study, **where: Any) -> dict[str, Any]:
    (line,) = lines(name, of, **where)
    return line


def test_fidelity_has_a_line_per_attack_over_the_seeds_whatever_the_defences() -> None:
    assert [line["attack"] for line in lines("fidelity", study())] == ["finetune", "removalnet", "knockoff"]
    line = the("fidelity", study(), attack="removalnet")
    assert line["accuracy"].mean == pytest.approx(0.825)
    assert line["accuracy"].spread == pytest.approx(np.std([0.85, 0.8], ddof=1))
    assert line["drop"].mean == pytest.approx(0.125)
    assert (line["accuracy"].seeds, line["planned"], line["missing"]) == (2, 2, None)
    assert "defense" not in line
    assert "seed" not in line


def test_scores_are_averaged_normalised_and_compared_with_the_baselines() -> None:
    line = the("effectiveness", study(), attack="removalnet", defense="zest")
    assert line["score"].mean == 30.0
    assert line["min_max"].mean == pytest.approx(((20 - 1) / 59 + (40 - 1) / 59) / 2)
    assert line["ratio"].mean == pytest.approx(30 / 2)  # the baselines' median is (1 + 3) / 2
    line = the("effectiveness", study(), attack="removalnet", defense="ipguard")
    assert line["min_max"].mean == pytest.approx(1 - ((0.2 - 0.2) / 0.7 + (0.4 - 0.2) / 0.7) / 2)
    assert line["ratio"].mean == pytest.approx((0.8 + 0.6) / 2 / 0.15)  # 1 - s of the baselines: 0.1 and 0.2
    assert (line["derived"], line["independent"], line["undecided"], line["of"]) == (0, 2, 0, 2)


def test_every_normalised_value_follows_the_formula() -> None:
    for (defense, attack), scores in SCORES.items():
        everyone = np.array([scores for (of, _), scores in SCORES.items() if of == defense]).ravel()
        share = (np.array(scores) - everyone.min()) / (everyone.max() - everyone.min() + 1e-8)
        expected = share.mean() if METRIC[defense]["direction"] == "distance" else (1 - share).mean()
        line = the("effectiveness", study(), attack=attack, defense=defense)
        assert line["min_max"].mean == pytest.approx(expected, abs=1e-12)


def test_other_architectures_are_normalised_for_themselves() -> None:
    other = trial("removalnet", "zest", 0)
    other = trial(
        "removalnet", "zest", 0, axes={**other.axes, "model": "resnet20"}, suspect_id="x", test_id="y", victim_id="z"
    )
    both = Study(trials=[*study().trials, other])
    assert the("effectiveness", both, model="resnet20")["min_max"].mean == 0.0
    assert the("effectiveness", both, model="resnet20")["ratio"] is None  # no baseline of that architecture
    assert the("effectiveness", both, model="resnet8", attack="removalnet", defense="zest")["score"].mean == 30.0


def test_a_suspect_is_counted_once_however_many_rows_it_has() -> None:
    again = Study(trials=[*study().trials, *study().trials])
    assert the("fidelity", again, attack="finetune")["accuracy"].seeds == 2
    assert the("effectiveness", again, attack="finetune", defense="zest")["of"] == 2


def test_costs_are_shown_beside_knockoffnets_at_equal_accuracy() -> None:
    line = the("efficiency", study(), attack="removalnet")
    assert line["flops"] == Summary(mean=6e12, spread=0.0, low=6e12, high=6e12, seeds=2)
    assert line["victim_queries"].mean == 600
    assert line["seconds"].mean == 2.0
    assert line["host_memory"].mean == 2e6
    assert line["device_memory"] is None
    assert line["knockoff"] == "at most"  # one budget, which reaches 0.9 and 0.82 on the two victims
    assert line["knockoff_flops"].mean == 10e12
    assert line["saved"].mean == pytest.approx(0.4)
    line = the("efficiency", study(), attack="finetune")
    assert line["knockoff"] == "at most: 1 of 2, not reached: 1 of 2"
    assert line["saved"].seeds == 1
    assert the("efficiency", study(), attack="knockoff")["saved"] is None


def test_several_budgets_of_knockoffnets_are_interpolated_and_the_cheapest_variant_counts() -> None:
    def stolen(strategy: str, flops: float, accuracy: float) -> Any:
        plain = trial("knockoff", "zest", 0)
        name = f"{strategy}_{flops}"
        result = {**plain.result, "accuracy": accuracy, "cost": {"flops": flops}}
        return trial(
            "knockoff", "zest", 0, axes={**plain.axes, "attack": name}, suspect_id=name, test_id=name, result=result,
            settings={"strategy": strategy},
        )  # fmt: skip

    attacked = trial("removalnet", "zest", 0)  # keeps 0.85 at 6e12 FLOPs
    curve = [stolen("random", 10e12, 0.8), stolen("random", 50e12, 0.9), stolen("adaptive", 40e12, 0.86)]
    line = the("efficiency", Study(trials=[attacked, *curve[:2]]), attack="removalnet")
    assert line["knockoff_flops"].mean == pytest.approx(30e12)
    assert line["knockoff"] == "interpolated"
    line = the("efficiency", Study(trials=[attacked, *curve]), attack="removalnet")
    assert line["knockoff_flops"].mean == pytest.approx(30e12)  # the other variant has at most 40e12
    assert line["saved"].mean == pytest.approx(1 - 6 / 30)


def test_verdicts_are_counted_by_defence_and_over_all_of_them() -> None:
    changed = [
        trial("removalnet", "zest", seed, verdict="undecided", votes=True, combined={"verdict": "derived"})
        for seed in (0, 1)
    ]
    found = lines("verdicts", study(*changed), attack="removalnet")
    assert [(line.get("defense"), line["judge"], line["derived"], line["undecided"]) for line in found] == [
        ("ipguard", "first metric", 0, 0),
        ("zest", "vote", 0, 2),
    ]
    both = [
        trial("removalnet", defense, seed, combined={"verdict": "derived"}) for seed in (0, 1) for defense in METRIC
    ]
    line = the("verdicts", study(*both), attack="removalnet", judge="all defences together")
    assert (line["derived"], line["of"]) == (2, 2)


def test_separation_is_of_all_seeds_against_all_negatives() -> None:
    line = the("separation", study(), attack="finetune", metric="ipguard/matching_rate")
    assert (line["positives"], line["negatives"], line["auc"]) == (2, 4, 1.0)
    assert (line["auc_low"], line["auc_high"]) == (1.0, 1.0)
    assert line["tpr_strict_low"] <= line["tpr_strict"] <= line["tpr_strict_high"]
    line = the("separation", study(), attack="removalnet", metric="ipguard/matching_rate")
    assert line["auc"] == pytest.approx((0 + 0.75) / 2)  # 0.4 beats 0.3 twice and ties with 0.4 twice
    line = the("separation", study(), attack="removalnet", metric="zest/l2")
    assert line["missing"] == "a ROC curve needs 2 of each"
    assert (line["positives"], line["negatives"]) == (2, 0)


def test_independent_models_are_no_positives() -> None:
    plain = trial("removalnet", "ipguard", 0).result
    independent = [trial("removalnet", "ipguard", seed, result={**plain, "derived": False}) for seed in (0, 1)]
    assert lines("separation", study(*independent), attack="removalnet", defense="ipguard") == []


def test_a_cell_that_lacks_a_seed_says_which_and_why() -> None:
    some = study(unfinished("removalnet", "zest", 1, "running"))
    line = the("effectiveness", some, attack="removalnet", defense="zest")
    assert (line["score"].mean, line["score"].seeds, line["of"]) == (20.0, 1, 1)
    assert (line["planned"], line["missing"]) == (2, "1 of 2 missing: running")
    assert the("fidelity", some, attack="removalnet")["missing"] is None


def test_a_cell_without_any_run_is_shown_as_missing() -> None:
    none = study(
        *(unfinished("removalnet", d, seed, "failed: loss is nan", suspect=True) for d in METRIC for seed in (0, 1))
    )
    for name in ("fidelity", "efficiency"):
        line = the(name, none, attack="removalnet")
        assert line["accuracy"] is None
        assert line["missing"] == "2 of 2 missing: failed: loss is nan"
    line = the("effectiveness", none, attack="removalnet", defense="zest")
    assert (line["metric"], line["score"], line["of"]) == ("zest/l2", None, 0)
    assert line["missing"] == "2 of 2 missing: failed: loss is nan"
    row = lines("rows", none, attack="removalnet", defense="zest")
    assert [line["state"] for line in row] == ["missing: failed: loss is nan"] * 2
    assert all("threshold" not in line for line in row)


def test_a_study_without_any_score_still_has_its_lines() -> None:
    none = Study(trials=[unfinished("removalnet", "zest", 0, "not submitted", suspect=True)])
    line = the("effectiveness", none)
    assert (line["metric"], line["missing"]) == ("zest/*", "missing: not submitted")
    assert len(make_tables(none)) == len(TABLES)


def test_rows_show_every_metric_with_both_verdicts_and_its_reason() -> None:
    found = lines("rows", study(), attack="removalnet", defense="zest")
    assert [(line["seed"], line["score"], line["state"]) for line in found] == [(0, 20.0, "done"), (1, 40.0, "done")]
    left_out = trial("finetune", "zest", 0, scores=[], left_out={"zest/l2": "needs logits"}, verdict="undecided")
    (line,) = lines("rows", study(left_out), attack="finetune", defense="zest", seed=0)
    assert (line["metric"], line["state"]) == ("zest/l2", "left out: needs logits")
    line = the("effectiveness", study(left_out), attack="finetune", defense="zest")
    assert line["missing"] == "1 of 2 missing: left out: needs logits"


def test_negatives_are_listed_with_accuracy_kind_and_scores() -> None:
    found = lines("negatives", study())
    assert [line["score"] for line in found] == [0.3, 0.4, 0.3, 0.4]
    assert {line["kind"] for line in found} == {"seeds"}


def test_no_threshold_has_a_reason() -> None:
    line = the("thresholds", study())
    assert (line["threshold"], line["reason"], line["warning"]) == (None, "they spread too widely", None)


def test_a_table_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UserError, match="effectiveness"):
        make_tables(study(), ["efectiveness"])


def test_a_sweep_that_ends_before_scores_has_the_tables_of_the_suspects() -> None:
    early = Study(trials=[trial("finetune", "zest", 0, test_id=None, scores=[], verdict="")])
    assert [table.name for table in make_tables(early)] == ["fidelity", "efficiency", "rows"]
    with pytest.raises(UserError, match="needs scores"):
        make_tables(early, ["separation"])
