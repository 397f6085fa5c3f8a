"""A small study with numbers that can be checked by hand: 2 seeds, a baseline, an attack, KnockoffNets, 2 metrics."""

from __future__ import annotations

from typing import Any

from rnet.report.records import NegativeModel, Score, Study, Threshold, Trial

RATE = {"name": "ipguard/matching_rate", "direction": "similarity", "low": 0.0, "high": 1.0}
L2 = {"name": "zest/l2", "direction": "distance", "low": 0.0, "high": float("inf")}
METRIC = {"ipguard": RATE, "zest": L2}
SCORES = {
    ("ipguard", "finetune"): (0.9, 0.8),
    ("ipguard", "removalnet"): (0.2, 0.4),
    ("ipguard", "knockoff"): (0.3, 0.3),
    ("zest", "finetune"): (1.0, 3.0),
    ("zest", "removalnet"): (20.0, 40.0),
    ("zest", "knockoff"): (50.0, 60.0),
}
ACCURACIES = {"finetune": (0.9, 0.92), "removalnet": (0.85, 0.8), "knockoff": (0.9, 0.82)}
FLOPS = {"finetune": 2e12, "removalnet": 6e12, "knockoff": 10e12}


def trial(attack: str, defense: str, seed: int, **changes: Any) -> Trial:
    """One finished trial of the study."""
    axes = {"dataset": "digits", "model": "resnet8", "attack": attack, "defense": defense, "seed": seed}
    score = Score(
        **METRIC[defense], value=SCORES[defense, attack][seed], reason="because", threshold=0.5, access="labels",
        verdict="derived" if attack == "finetune" else "independent",
    )  # fmt: skip
    accuracy = ACCURACIES[attack][seed]
    result = {
        "accuracy": accuracy, "victim_accuracy": 0.95, "drop": 0.95 - accuracy, "agreement": 0.9, "derived": True,
        "cost": {"substitute_samples": 400, "victim_queries": 400 * (seed + 1), "iterations": 10,
                 "flops": FLOPS[attack]},
    }  # fmt: skip
    known: dict[str, Any] = {
        "axes": axes, "kind": attack, "baseline": attack == "finetune", "victim_id": f"v{seed}",
        "suspect_id": f"{attack}{seed}", "test_id": f"{defense}{attack}{seed}", "result": result,
        "status": {"seconds": 1.5 + seed, "peak_memory": {"host": 2_000_000}}, "scores": [score],
        "verdict": score.verdict, "reason": "because", "negatives": 2, "negatives_planned": 2,
    }  # fmt: skip
    return Trial(**(known | changes))


def study(*changed: Trial) -> Study:
    """Every trial, but for those that are given in place of them."""
    trials = {
        (attack, defense, seed): trial(attack, defense, seed)
        for attack in ACCURACIES
        for defense in METRIC
        for seed in (0, 1)
    }
    trials |= {(t.axes["attack"], t.axes["defense"], t.axes["seed"]): t for t in changed}
    negatives = [
        NegativeModel(
            axes={"dataset": "digits", "model": "resnet8", "defense": "ipguard", "seed": seed},
            suspect_id=f"n{seed}{number}", test_id=f"t{seed}{number}", seed=1000 * (seed + 1) + number, kind="seeds",
            accuracy=0.94, agreement=0.9, scores={"ipguard/matching_rate": 0.3 + number / 10},
        )
        for seed in (0, 1)
        for number in (0, 1)
    ]  # fmt: skip
    threshold = Threshold(
        axes=negatives[0].axes, metric="ipguard/matching_rate", direction="similarity", rule="student", scale="logit",
        n=2, threshold=None, reason="they spread too widely", false_positive_rate=0.05, leave_one_out=None,
    )  # fmt: skip
    return Study(trials=[*trials.values()], negatives=negatives, thresholds=[threshold])


def unfinished(attack: str, defense: str, seed: int, state: str, *, suspect: bool = False) -> Trial:
    """A trial without scores; suspect: without its suspect, too."""
    gone: dict[str, Any] = {"state": state, "scores": [], "verdict": "", "reason": ""}
    return trial(
        attack, defense, seed, **gone, **({"suspect_state": state, "result": {}, "status": {}} if suspect else {})
    )
