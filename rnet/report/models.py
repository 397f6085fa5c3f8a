"""Tables of the suspects themselves, whatever the defence: what they can still do, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rnet.report.records import Study, Trial, grouped, key_of, missing, once
from rnet.report.statistics import LEVEL, flops_at_accuracy, summary
from rnet.report.table import MISSING, PLANNED, Column, Table, axis_columns, percent

SEEDS_NOTE = (
    f"Means over seeds \u00b1 sample standard deviation; in brackets the {LEVEL:.0%} t interval of the mean (none with "
    "one seed; cut at the ends of the range) and n, the number of seeds."
)
COUNTS = (
    "substitute_samples", "training_samples", "victim_queries", "iterations", "forward_passes", "backward_passes"
)  # fmt: skip
KNOCKOFF = "knockoff"
"""The attack that stands for model stealing."""


def fidelity(study: Study) -> Table:
    """One line per attack and victim: how well the suspect does the victim's job, over the seeds."""
    lines = []
    for key, runs in _suspects(study).items():
        found = [run.result for run in runs]
        lines.append(
            {
                **dict(key),
                **{
                    name: summary((about.get(name) for about in found), -1.0 if name == "drop" else 0.0, 1.0)
                    for name in ("victim_accuracy", "accuracy", "drop", "agreement")
                },
                **_missing(runs),
            }
        )
    return Table(
        name="fidelity",
        title="Fidelity: what the suspects can still do",
        columns=[
            *axis_columns([dict(key) for key in _suspects(study)]), percent("victim_accuracy"), percent("accuracy"),
            percent("drop"), percent("agreement"), PLANNED, MISSING,
        ],
        lines=lines,
        notes=(SEEDS_NOTE, "On the victim's test images; agreement: the share of them with the victim's own answer."),
    )  # fmt: skip


def efficiency(study: Study) -> Table:
    """One line per attack and victim: what it took to make the suspect, beside KnockoffNets at equal accuracy."""
    cells = _suspects(study)
    curves = _knockoff_curves(cells)
    lines = []
    for key, runs in cells.items():
        costs = [run.result.get("cost", {}) for run in runs]
        memory = [run.status.get("peak_memory", {}) for run in runs if not run.suspect_state]
        seconds = [run.status.get("seconds") for run in runs if not run.suspect_state]
        lines.append(
            {
                **dict(key),
                **{name: summary((cost.get(name) for cost in costs), 0.0) for name in (*COUNTS, "flops")},
                "seconds": summary(seconds, 0.0),
                "host_memory": summary((used.get("host") for used in memory), 0.0),
                "device_memory": summary((used.get("device") for used in memory), 0.0),
                "accuracy": summary((run.result.get("accuracy") for run in runs), 0.0, 1.0),
                **_beside_knockoff(runs, curves),
                **_missing(runs),
            }
        )
    counts = [
        Column(name=name, kind="summary", title=name.replace("_", " "), decimals=0, exact=True) for name in COUNTS
    ]
    return Table(
        name="efficiency",
        title="Efficiency: what the suspects cost, beside KnockoffNets at equal accuracy",
        columns=[
            *axis_columns([dict(key) for key in cells]), *counts,
            Column(name="flops", kind="summary", title="TFLOP", scale=1e-12, exact=True),
            Column(name="seconds", kind="summary", decimals=1),
            Column(name="host_memory", kind="summary", title="host memory (MB)", scale=1e-6, decimals=0),
            Column(
                name="device_memory", kind="summary", title="GPU memory (MB)", scale=1e-6, decimals=0, optional=True
            ),
            percent("accuracy"),
            Column(name="knockoff_flops", kind="summary", title="KnockoffNets' TFLOP", scale=1e-12, optional=True),
            percent("saved", title="saved", optional=True),
            Column(name="knockoff", title="KnockoffNets", optional=True), PLANNED, MISSING,
        ],
        lines=lines,
        notes=(
            SEEDS_NOTE,
            "FLOPs, passes, queries and iterations do not depend on the machine; seconds and peak memory do, and on "
            "what else ran there.",
            "KnockoffNets' TFLOP: what it needs for the accuracy that the attack keeps, on the same victim: "
            "interpolated between its budgets, the cheapest of its variants; at most that where its smallest budget "
            "reaches it already. saved: 1 - TFLOP / KnockoffNets' TFLOP, below 0 where the attack costs more.",
        ),
    )  # fmt: skip


def _suspects(study: Study) -> dict[Any, list[Trial]]:
    """The trials by attack and victim, each suspect once."""
    return grouped(once(study.trials, "suspect_id"), lambda trial: key_of(trial.axes, "train", "attack"))


def _missing(runs: Sequence[Trial]) -> dict[str, Any]:
    return {"planned": len(runs), "missing": missing([run.suspect_state for run in runs]) or None}


Curve = list[tuple[float, float]]


def _knockoff_curves(cells: Mapping[Any, Sequence[Trial]]) -> dict[Any, dict[Any, Curve]]:
    """By victim and variant: (FLOPs, accuracy) of the finished runs of KnockoffNets."""
    curves: dict[Any, dict[Any, Curve]] = {}
    for run in (run for runs in cells.values() for run in runs if run.kind == KNOCKOFF and run.result):
        flops, accuracy = run.result.get("cost", {}).get("flops"), run.result.get("accuracy")
        if flops is not None and accuracy is not None:
            variant = run.settings.get("strategy"), run.settings.get("answers")
            curves.setdefault(run.victim_id, {}).setdefault(variant, []).append((flops, accuracy))
    return curves


def _beside_knockoff(runs: Sequence[Trial], curves: Mapping[Any, Mapping[Any, Curve]]) -> dict[str, Any]:
    """What KnockoffNets needs for each run's accuracy, the share saved, and how that is known."""
    nothing = {"knockoff_flops": None, "saved": None, "knockoff": None}
    measured = [
        run
        for run in runs
        if run.kind != KNOCKOFF and run.result.get("accuracy") is not None and "flops" in run.result.get("cost", {})
    ]
    beside = [(run, curves[run.victim_id]) for run in measured if run.victim_id in curves]
    if not beside:
        return nothing
    needed: list[float] = []
    how: list[str] = []
    saved: list[float] = []
    for run, variants in beside:
        found = [flops_at_accuracy(curve, run.result["accuracy"]) for curve in variants.values()]
        reached = [(flops, word) for flops, word in found if flops is not None]
        flops, word = min(reached, default=(None, "not reached"))
        how.append(word)
        if flops:
            needed.append(flops)
            saved.append(1 - run.result["cost"]["flops"] / flops)
    return {"knockoff_flops": summary(needed, 0.0), "saved": summary(saved, high=1.0), "knockoff": _counted(how)}


def _counted(words: Iterable[str]) -> str:
    """ "not reached" where all are so, else each with its number."""
    listed = list(words)
    if len(set(listed)) == 1:
        return listed[0]
    return ", ".join(f"{word}: {listed.count(word)} of {len(listed)}" for word in sorted(set(listed)))
