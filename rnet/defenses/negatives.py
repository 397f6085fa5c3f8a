"""The independently trained models by which a defence is calibrated, and which of them are fit for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Self

Scores = Mapping[str, float]
"""By metric, as a defence's `verify` returns them."""

CLEARLY_WORSE = 0.1
"""Accuracy lost against the victim from which a negative is said to be worse at its job."""


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Independent models at one fingerprint, by name.

    scores: of each, as `Defense.verify` returns them. accuracies (shares) and kinds (how a model is independent: by
    its seed, its data), where known. pairs: the scores of two of them compared with each other, by their names.
    victim_accuracy, chance: what the victim reaches and what a guess does, shares; None where nobody knows. caution: a
    sentence on what else speaks against them. about: the fingerprint's metadata.
    """

    scores: Mapping[str, Scores]
    accuracies: Mapping[str, float] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    pairs: Mapping[tuple[str, str], Scores] = field(default_factory=dict)
    victim_accuracy: float | None = None
    chance: float = 0.0
    caution: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: Sequence[Scores], pairs: Sequence[Scores] = ()) -> Self:
        """From the scores alone; pairs in the order of itertools.combinations, if there are any."""
        named = {str(number): found for number, found in enumerate(scores)}
        return cls(scores=named, pairs=dict(zip(combinations(named, 2), pairs, strict=bool(pairs))))

    def without(self, name: str) -> Self:
        """All but one: no suspect is judged by its own score."""
        return replace(
            self,
            scores={key: found for key, found in self.scores.items() if key != name},
            pairs={key: found for key, found in self.pairs.items() if name not in key},
        )

    @property
    def needed_accuracy(self) -> float | None:
        """The middle between chance and the victim: who is not above it does not do the victim's job."""
        return None if self.victim_accuracy is None else (self.chance + self.victim_accuracy) / 2

    @property
    def unfit(self) -> dict[str, float]:
        """The accuracies of those that do not do the victim's job."""
        needed = self.needed_accuracy
        known = {name: self.accuracies[name] for name in self.scores if name in self.accuracies}
        return {} if needed is None else {name: value for name, value in known.items() if value <= needed}

    @property
    def fit(self) -> Self:
        """Those that do the victim's job, which alone calibrate."""
        kept = self
        for name in self.unfit:
            kept = kept.without(name)
        return kept

    def of_metric(self, metric: str) -> list[float]:
        """The fit ones' scores on a metric; those that have none are not in the list."""
        return [found[metric] for found in self.fit.scores.values() if metric in found]

    def of_pairs(self, metric: str) -> list[float]:
        """The metric between each two of the fit ones."""
        return [found[metric] for found in self.fit.pairs.values() if metric in found]

    @property
    def why_left_out(self) -> str | None:
        """One sentence on those that do not calibrate, None if all do."""
        if not (unfit := self.unfit) or self.victim_accuracy is None or self.needed_accuracy is None:
            return None
        return (
            f"{len(unfit)} of {len(self.scores)} negatives {'reach' if len(unfit) > 1 else 'reaches'} "
            f"{_shares([*unfit.values()])} where the victim has {self.victim_accuracy:.0%}: not above "
            f"{self.needed_accuracy:.0%}, they do not do its job and calibrate nothing; train them longer "
            "(train.epochs, train.learning_rate)"
        )

    @property
    def warning(self) -> str | None:
        """One sentence where some that count are clearly worse than the victim, else the caution."""
        if (victim := self.victim_accuracy) is None:
            return self.caution
        worse = [a for name, a in self.accuracies.items() if name in self.fit.scores and victim - a > CLEARLY_WORSE]
        if not worse:
            return self.caution
        said = (
            f"{len(worse)} of {len(self.fit.scores)} negatives that count {'reach' if len(worse) > 1 else 'reaches'} "
            f"only {_shares(worse)} where the victim has {victim:.0%}; a weaker model looks less derived"
        )
        return f"{said}; {self.caution}" if self.caution else said


def _shares(accuracies: Sequence[float]) -> str:
    low, high = f"{min(accuracies):.0%}", f"{max(accuracies):.0%}"
    return low if low == high else f"{low} to {high}"
