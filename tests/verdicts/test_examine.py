"""Suspects to verdicts: every defence through the stages, thresholds kept with the fingerprint, refusals explained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from rnet.attacks.base import Suspect
from rnet.attacks.independent.attack import Independent
from rnet.config.overrides import expand_choices
from rnet.defenses.calibration import calibrate
from rnet.defenses.ipguard.defense import IPGuard
from rnet.defenses.negatives import Negatives
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError
from rnet.stages import models, stages
from rnet.stages.graph import negative_configs
from rnet.stages.store import Store
from rnet.verdicts.examine import check, examine
from tests.tiny_runs import TINY_FINETUNE, TINY_IPGUARD, tiny
from tests.verdicts.studied import separations

SMALL = {
    "ipguard": TINY_IPGUARD[1:],
    "modeldiff": ["defense.num_pairs=8", "defense.steps=3"],
    "zest": ["defense.num_images=3", "defense.num_masks=40"],
    "deepjudge": [
        "defense.num_seeds=8", "defense.min_seeds=4", "defense.num_fuzz_seeds=3", "defense.max_steps=60",
        "defense.threshold_factor=1.05",
    ],
    "sac": ["defense.num_queries=12", "defense.inputs=[cutmix,jpeg]"],
    "akh": [],
    "dataset_inference": [
        "defense.num_regressor_images=20", "defense.num_suspect_images=20", "defense.regressor_steps=5",
    ],
    "random": ["defense.num_queries=20"],
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def test_the_table_of_small_settings_names_every_defence() -> None:
    assert set(SMALL) == set(DEFENSES.names())


@pytest.mark.parametrize("defense", sorted(SMALL))
def test_every_defence_gives_the_victim_itself_the_perfect_score(defense: str, store: Store) -> None:
    config = tiny("attack=identity", "train.epochs=6", f"defense={defense}", *SMALL[defense])
    (row,) = examine([config], store)
    perfect = {f"{defense}/{metric.name}": metric.perfect for metric in DEFENSES.build(config.defense).metrics}
    assert defense != "deepjudge" or {"deepjudge/lod", "deepjudge/lod@layer1"} <= row["metrics"].keys()
    for name, metric in row["metrics"].items():
        if defense != "dataset_inference":  # its p-value has no fixed perfect score
            assert metric["value"] == pytest.approx(perfect[name.partition("@")[0]], abs=1e-5), name
        assert {"direction", "verdict", "threshold", "access", "low", "high"} <= metric.keys()


def test_thresholds_and_what_they_rest_on_are_kept_beside_the_fingerprint(store: Store) -> None:
    config = tiny("attack=identity", "negatives=2", "train.epochs=6", *TINY_IPGUARD)
    (row,) = examine([config], store)
    kept = json.loads((stages.fingerprint(config, store).path / "calibration.json").read_text())
    entry = kept["metrics"]["ipguard/matching_rate"]
    assert row["metrics"]["ipguard/matching_rate"]["threshold"] == entry["threshold"]
    assert row["calibration"] == kept["metrics"]
    assert (entry["negatives"], entry["rule"], entry["scale"]) == (2, "student", "logit")
    negatives = Negatives(
        scores={name: {"matching_rate": found["ipguard/matching_rate"]} for name, found in kept["negatives"].items()},
        accuracies=kept["accuracies"], victim_accuracy=kept["victim_accuracy"], chance=kept["chance"],
    )  # fmt: skip
    (metric,) = IPGuard(config.defense).resolved(["matching_rate"], {})
    assert kept["resolutions"] == {"matching_rate": metric.resolution}
    again = calibrate(negatives.of_metric("matching_rate"), metric, kept["false_positive_rate"])
    assert (again.threshold, again.why_none) == (entry["threshold"], entry["no_threshold"])
    assert kept["chance"] >= 0.1


def test_a_finished_examination_builds_no_network_and_refuses_wrong_settings_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = expand_choices(["attack=identity,independent", "negatives=2", "defense=ipguard,random"])
    configs = [tiny(*line, *(SMALL["ipguard"] if "defense=ipguard" in line else SMALL["random"])) for line in lines]
    rows = examine(configs, store)
    built: list[object] = []
    build = models.build_model
    monkeypatch.setattr(models, "build_model", lambda *given, **named: built.append(given) or build(*given, **named))
    assert examine(configs, store) == rows
    separations(configs, store)
    assert built == []
    wrong = dataclasses.replace(configs[-1], defense=dataclasses.replace(configs[-1].defense, batch_size=0))
    with pytest.raises(UserError, match=r"defense\.batch_size=0"):
        examine([*configs[:-1], wrong], store)
    examine([tiny("attack=identity", "train.epochs=1", *TINY_IPGUARD)], store)
    assert built  # the count counts


def test_suspects_are_checked_once_for_all_defences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    build = models.build_model
    monkeypatch.setattr(models, "build_model", lambda *given, **named: built.append(given) or build(*given, **named))
    configs = [tiny(*TINY_FINETUNE, f"defense={defense}") for defense in SMALL]
    check(configs, Store(tmp_path))
    assert len(built) == 2  # the victim's network and the suspect's


def test_a_negative_is_judged_without_its_own_score(store: Store) -> None:
    config = tiny("negatives=2", "train.epochs=6", *TINY_IPGUARD)
    rows = examine(negative_configs(config), store)
    assert [row["verdict"] for row in rows] == ["undecided", "undecided"]
    assert all("1 independent model cannot calibrate" in row["reason"] for row in rows)


def test_one_refusal_among_several_defences_is_a_row_with_its_reason(store: Store) -> None:
    refused = tiny("attack=identity", "defense=deepjudge", "defense.num_seeds=100", "defense.min_seeds=100")
    rows = examine([tiny("attack=identity", *TINY_IPGUARD), refused], store)
    assert rows[0]["metrics"]
    assert rows[1]["metrics"] == {}
    assert "defense.min_seeds=100" in rows[1]["reason"]


def test_a_single_refusal_is_an_error_and_leaves_no_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    refused = tiny("attack=identity", "defense=deepjudge", "defense.num_seeds=100", "defense.min_seeds=100")
    with pytest.raises(UserError, match=r"defense\.min_seeds=100"):
        examine([refused], store)
    assert not (tmp_path / "fingerprint").exists()


def test_a_false_positive_rate_moves_the_threshold(store: Store) -> None:
    bounds = []
    for rate in (0.2, 0.3):
        config = tiny("attack=identity", "negatives=3", f"false_positive_rate={rate}", "defense=zest", *SMALL["zest"])
        examine([config], store)
        kept = json.loads((stages.fingerprint(config, store).path / "calibration.json").read_text())
        assert kept["false_positive_rate"] == rate
        bounds.append(kept["metrics"]["zest/l2"]["threshold"])
    assert bounds[0] < bounds[1]


def test_all_rows_of_a_suspect_carry_the_combined_verdict(store: Store) -> None:
    names = ["ipguard", "random", "zest"]
    configs = [
        tiny(f"attack={attack}", "negatives=4", "train.epochs=6", f"defense={name}", *SMALL[name])
        for attack in ("identity", "independent")
        for name in names
    ]
    rows = examine(configs, store)
    for group in (rows[:3], rows[3:]):
        combined = group[0]["combined"]
        assert all(row["combined"] == combined for row in group)
        assert combined["metrics"] == ["ipguard/matching_rate", "random/agreement", "zest/l1", "zest/l2", "zest/linf",
                                       "zest/cosine"]  # fmt: skip
        assert {"verdict", "reason", "score", "threshold", "rule", "negatives", "leave_one_out_fpr"} <= combined.keys()
        assert all(row["negatives"]["counted"] == 4 for row in group)
    assert rows[0]["combined"]["verdict"] == "derived"
    assert rows[3]["combined"]["verdict"] != "derived"
    assert rows[2]["metrics"]["zest/l2"]["promise"].startswith("5% of independent models")
    assert rows[2]["calibration"]["zest/l2"]["leave_one_out_fpr"] in (0.0, 0.25)


def test_negatives_at_chance_calibrate_nothing_and_the_reason_has_the_numbers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The victim is trained, the negatives are not."""
    config = tiny("attack=identity", "train.epochs=6", "negatives=2", "seed=5", *TINY_IPGUARD)
    monkeypatch.setattr(
        Independent, "run",
        lambda self, dataset, context: Suspect(model=context.build(1), derived=False, cost={}),
    )  # fmt: skip
    (row,) = examine([config], store)
    assert row["verdict"] == "undecided"
    assert row["reason"] == row["negatives"]["why_left_out"]
    assert "2 of 2 negatives reach" in row["reason"]
    assert "train.epochs" in row["reason"]
    assert (row["negatives"]["counted"], row["negatives"]["left_out"]) == (0, 2)
    assert row["combined"]["verdict"] == "undecided"


def test_separation_is_perfect_for_copies_that_score_better_than_every_negative(store: Store) -> None:
    configs = [
        tiny(*TINY_FINETUNE, f"attack.seed={seed}", "attack.learning_rate=0.0001", "negatives=3", *TINY_IPGUARD)
        for seed in (1, 2)
    ]
    rows = examine(configs, store)
    (entry,) = separations(configs, store)
    calibration = json.loads((stages.fingerprint(configs[0], store).path / "calibration.json").read_text())
    best = max(scores["ipguard/matching_rate"] for scores in calibration["negatives"].values())
    scores = [row["metrics"]["ipguard/matching_rate"]["value"] for row in rows]
    expected = sum((s > n["ipguard/matching_rate"]) + 0.5 * (s == n["ipguard/matching_rate"]) for s in scores
                   for n in calibration["negatives"].values()) / 6  # fmt: skip
    assert entry["auc"] == pytest.approx(expected)
    assert (entry["attack"], entry["metric"], entry["positives"], entry["negatives"]) == (
        "finetune", "ipguard/matching_rate", 2, 3,
    )  # fmt: skip
    assert (entry["auc"] == 1.0) == all(score > best for score in scores)


def test_a_fingerprint_that_cannot_be_made_is_tried_once_for_all_suspects(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rnet.defenses.deepjudge.defense import DeepJudge

    calls = []
    original = DeepJudge.extract
    monkeypatch.setattr(
        DeepJudge, "extract", lambda self, *given, **named: calls.append(1) or original(self, *given, **named)
    )
    refused = ["defense=deepjudge", "defense.num_seeds=100", "defense.min_seeds=100"]
    rows = examine([tiny(*attack, *refused) for attack in (["attack=identity"], TINY_FINETUNE)], store)
    assert len(calls) == 1
    assert [row["metrics"] for row in rows] == [{}, {}]
