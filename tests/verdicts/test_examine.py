"""Suspects to verdicts: every defence through the stages, thresholds kept with the fingerprint, refusals explained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from rnet.config.overrides import expand_choices
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError
from rnet.stages import models, stages
from rnet.stages.graph import negative_configs
from rnet.stages.store import Store
from rnet.verdicts.examine import check, examine, separations
from tests.tiny_runs import TINY_FINETUNE, TINY_IPGUARD, tiny

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
    for name, metric in row["metrics"].items():
        if defense != "dataset_inference":  # its p-value has no fixed perfect score
            assert metric["value"] == pytest.approx(perfect[name], abs=1e-5), name
        assert {"direction", "verdict", "threshold", "access", "low", "high"} <= metric.keys()


def test_thresholds_and_what_they_rest_on_are_kept_beside_the_fingerprint(store: Store) -> None:
    config = tiny("attack=identity", "negatives=2", *TINY_IPGUARD)
    (row,) = examine([config], store)
    kept = json.loads((stages.fingerprint(config, store).path / "calibration.json").read_text())
    bound = kept["metrics"]["ipguard/matching_rate"]["threshold"]  # not clipped to [0, 1], as a verdict's is
    assert row["metrics"]["ipguard/matching_rate"]["threshold"] == pytest.approx(min(max(bound, 0.0), 1.0))
    assert len(kept["negatives"]) == 2


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
    separations(rows, configs, store)
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
    config = tiny("negatives=2", *TINY_IPGUARD)
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
    for rate in (0.01, 0.3):
        config = tiny("attack=identity", "negatives=3", f"false_positive_rate={rate}", *TINY_IPGUARD)
        examine([config], store)
        kept = json.loads((stages.fingerprint(config, store).path / "calibration.json").read_text())
        bounds.append(kept["metrics"]["ipguard/matching_rate"]["threshold"])
    assert bounds[0] > bounds[1]


def test_separation_is_perfect_for_copies_that_score_better_than_every_negative(store: Store) -> None:
    configs = [
        tiny(*TINY_FINETUNE, f"attack.seed={seed}", "attack.learning_rate=0.0001", "negatives=3", *TINY_IPGUARD)
        for seed in (1, 2)
    ]
    rows = examine(configs, store)
    (entry,) = separations(rows, configs, store)
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
