"""The contract of an ownership defence: extract once per victim, verify per suspect.

Models take float pixels (B, C, H, W) in [0, 1] and return logits (B, K); they are in eval mode whenever a defence sees
them and are never written to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from rnet.config.component import ComponentConfig
from rnet.data.images import Dataset
from rnet.defenses.calibration import FEWEST, Verdict, calibrate, judged
from rnet.defenses.metric import Metric
from rnet.defenses.negatives import Negatives
from rnet.errors import UserError
from rnet.models.access import NEEDS, Access, access_of, limits_of, suffices


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a defence keeps of a victim: tensors (stored as safetensors) and JSON-able metadata. CPU tensors."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, defense: Defense, dataset: Dataset, seed: int, tensors: dict[str, Tensor], *, num_classes: int,
        **metadata: Any,
    ) -> Self:  # fmt: skip
        """What a defence has made of a victim with so many classes, with the metadata that all defences keep."""
        known = {
            "defense": defense.name,
            "dataset": dataset.name,
            "seed": seed,
            "num_classes": num_classes,
            "input_shape": [dataset.channels, dataset.image_size, dataset.image_size],
        }
        return cls(tensors=tensors, metadata=known | metadata)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a test of one suspect found: scores by metric, and the metrics left out with the reasons.

    representation: what `Defense.between` compares two suspects by; CPU tensors, none where a defence has no such
    thing. The verify stage keeps that of independent models.
    """

    scores: dict[str, float]
    left_out: dict[str, str]
    representation: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a defence says of one suspect: by metric, and, where the defence decides by more than one, its vote."""

    metrics: dict[str, Verdict]
    vote: Verdict | None = None

    @property
    def overall(self) -> Verdict:
        """The vote, or the verdict of the first metric."""
        return self.vote or next(iter(self.metrics.values()))


class Defense(ABC):
    """An ownership test. Hyperparameters in the constructor (a config dataclass), data in the calls.

    config: annotate it with your own dataclass; its fields are the keys of the command line. metrics: what it scores,
    the first being the one that decides. Where the victim has a say in what else is scored, `metrics_of` names that.
    """

    config: ComponentConfig
    metrics: ClassVar[tuple[Metric, ...]]

    def __init__(self, config: Any) -> None:
        config.check()
        self.config = config

    @property
    def name(self) -> str:
        """What tables, ids and the names of scores call it."""
        return self.config.name

    @abstractmethod
    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """The victim's fingerprint, a function of the victim, its data and the seed; made on the victim's device."""

    @abstractmethod
    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """One score per metric name, for one suspect. The suspect may live on any device.

        A metric that `left_out` names need not be computed; its score would not be used.
        """

    def represent(self, fingerprint: Fingerprint, suspect: nn.Module) -> tuple[dict[str, float], dict[str, Tensor]]:
        """What `verify` returns, and the suspect's representation: none, unless a defence says what that is."""
        return self.verify(fingerprint, suspect), {}

    def between(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
        """The scores of two suspects compared with each other, from their representations; nothing without any."""
        return {}

    def metrics_of(self, names: Iterable[str]) -> list[Metric]:
        """The metrics with these names of scores, in the order of tables; other names are passed over."""
        known = {*names}
        return [metric for metric in self.metrics if metric.name in known]

    def asked_for(self) -> Sequence[Metric]:
        """The metrics that this configuration computes."""
        return self.metrics

    def access(self, metric: Metric) -> Access:
        """What this configuration needs of a suspect for a metric."""
        return metric.access

    def left_out(self, suspect: nn.Module) -> dict[str, str]:
        """The metrics that need more of a suspect than it shows, each with the reason."""
        return {
            metric.name: f"needs {NEEDS[self.access(metric)]}, but the suspect {limits_of(suspect)}"
            for metric in self.asked_for()
            if not suffices(access_of(suspect), self.access(metric))
        }

    def test(self, fingerprint: Fingerprint, suspect: nn.Module) -> Measured:
        """The suspect's scores, its representation, and the metrics that are left out with the reasons.

        Raises UserError if that is all of them, and what `verify` raises.
        """
        left_out = self.left_out(suspect)
        if len(left_out) == len(self.asked_for()):
            needed = sorted({NEEDS[self.access(metric)] for metric in self.asked_for()})
            raise UserError(
                f"defense={self.name} needs {' or '.join(needed)}, but the suspect {limits_of(suspect)}; `rnet list "
                "defenses` says what the others need"
            )
        scores, representation = self.represent(fingerprint, suspect)
        kept = {name: score for name, score in scores.items() if name not in left_out}
        return Measured(scores=kept, left_out=left_out, representation=representation)

    def resolved(self, names: Iterable[str], about: Mapping[str, Any]) -> list[Metric]:
        """`metrics_of` these names with their resolutions: one of the queries of which each is a share.

        about: the fingerprint's metadata, which say how many those are; without them it is the number asked for.
        """
        found = []
        for metric in self.metrics_of(names):
            queries = about.get(metric.share_of or "") or getattr(self.config, metric.share_of or "", None)
            found.append(replace(metric, resolution=1 / queries) if queries else metric)
        return found

    def judge(self, scores: Mapping[str, float], negatives: Negatives, false_positive_rate: float) -> Judgement:
        """What a suspect's scores say, given those of independently trained models at the same fingerprint.

        scores: as `verify` returns them. Unless a defence has a rule of its own, each metric is judged by its rank or
        its prediction bound (calibration.py). Metrics without a score are left out.
        """
        found = {}
        for metric in self.resolved(scores, negatives.about):
            by = calibrate(negatives.of_metric(metric.name), metric, false_positive_rate)
            if by.negatives < FEWEST and negatives.why_left_out is not None:
                by = replace(by, why_none=negatives.why_left_out)
            found[metric.name] = judged(scores[metric.name], by, metric)
        return Judgement(metrics=found)
