"""What tables are made from: trials (a suspect under a defence), negatives and thresholds, as plain records.

`rnet verify` makes them from what it computed, `rnet sweep report` from what is in the store. Axes tell trials apart:
dataset, model, attack and defense by the names that the user chose, seed, and what else differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rnet.stages.graph import GRAPH

Axes = Mapping[str, Any]
GIVEN = "import"
"""The kind of suspects that were given to the user."""
Key = tuple[tuple[str, Any], ...]
"""Some of the axes with their values."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one trial. name: defence/metric. direction: similarity or distance; low, high: its range.

    verdict: what the metric alone says. threshold: None where there is none, and then no_threshold says
    why; reason: the sentence with the numbers.
    normalised: the score relative to the negatives, where the defence compares so.
    """

    name: str
    value: float
    direction: str
    low: float
    high: float
    verdict: str
    reason: str
    threshold: float | None = None
    no_threshold: str | None = None
    normalised: float | None = None
    access: str = ""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One suspect under one defence, finished or not.

    axes: in the order of the columns, the same in every trial of a study. kind: the attack's own name; baseline:
    whether ratios are to it; settings: its own. victim_id, suspect_id, test_id: of the train, attack and verify
    stages; test_id is None in a study that ends before. result, status: what the attack stage left (accuracy, cost,
    derived; seconds, peak_memory), empty while it is not finished. suspect_state, state: "" where suspect and
    scores are there, else why not ("running", "failed: ..."). verdict: the defence's own, by its vote where it has
    one. combined: of all defences together. left_out: reasons by metric. negatives: how many count, of how many
    planned.
    """

    axes: Axes
    kind: str
    baseline: bool
    victim_id: str
    suspect_id: str
    test_id: str | None
    result: Mapping[str, Any]
    status: Mapping[str, Any]
    suspect_state: str = ""
    state: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Sequence[Score] = ()
    verdict: str = ""
    reason: str = ""
    votes: bool = False
    combined: Mapping[str, Any] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    negatives: int = 0
    negatives_planned: int = 0

    @property
    def derived(self) -> bool:
        """Whether the suspect is known to derive from the victim, and has the classes that the negatives have."""
        return bool(self.result.get("derived")) and "not_measured" not in self.result


@dataclass(frozen=True, kw_only=True)
class NegativeModel:
    """An independent model under one defence. axes: its victim's and the defence's. kind: in which way it is another.

    state: "" where its scores are there. left_out: why it calibrates nothing, "" if it does.
    """

    axes: Axes
    suspect_id: str
    test_id: str
    seed: int
    kind: str
    accuracy: float | None = None
    agreement: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    state: str = ""
    left_out: str = ""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What the negatives of one victim and defence give for a metric. rule: how, on which scale; n: of how many.

    threshold: None with the reason. false_positive_rate: promised; leave_one_out: the share of the negatives that the
    others would call derived. warning: what is wrong with the negatives, if anything is.
    """

    axes: Axes
    metric: str
    direction: str
    rule: str
    scale: str
    n: int
    threshold: float | None
    reason: str
    false_positive_rate: float
    leave_one_out: float | None
    warning: str = ""


@dataclass(frozen=True, kw_only=True)
class Study:
    """All that tables are made from."""

    trials: Sequence[Trial]
    negatives: Sequence[NegativeModel] = ()
    thresholds: Sequence[Threshold] = ()


def is_seed(axis: str) -> bool:
    """Whether runs that differ in this axis only are repetitions of one another."""
    return axis.split(".")[-1] == "seed"


def stage_of(axis: str) -> str:
    """The first stage that the axis changes: train, attack or fingerprint; train for what changes no result."""
    group = axis.partition(".")[0].removesuffix("_preset")
    return next((stage for stage in ("train", "attack", "fingerprint") if group in GRAPH[stage].own), "train")


def key_of(axes: Axes, *stages: str) -> Key:
    """The axes of these stages, seeds left aside."""
    return tuple((axis, value) for axis, value in axes.items() if not is_seed(axis) and stage_of(axis) in stages)


Item = TypeVar("Item")


def grouped(items: Iterable[Item], key: Any) -> dict[Any, list[Item]]:
    """Items by their key, in the order in which keys first appear."""
    found: dict[Any, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def once(trials: Iterable[Trial], name: str) -> list[Trial]:
    """The first trial of each suspect (name="suspect_id") or test (name="test_id")."""
    found: dict[str, Trial] = {}
    for trial in trials:
        found.setdefault(getattr(trial, name), trial)
    return [*found.values()]


def missing(states: Sequence[str]) -> str:
    """What is said of a cell whose runs are in these states, "" for finished; "" if none is missing.

    "missing: running" of a single run, "1 of 3 missing: running" of several.
    """
    why = [state for state in states if state]
    if not why:
        return ""
    reasons = "; ".join(dict.fromkeys(why))
    return f"missing: {reasons}" if len(why) == len(states) == 1 else f"{len(why)} of {len(states)} missing: {reasons}"
