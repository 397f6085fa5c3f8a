"""DeepJudge: adversarial cases on logits (RobD, JSD) and fuzzed neurons at the cut layers (LOD, LAD, NOD, NAD).

Source: Chen et al., "Copy, Right? A Testing Framework for Copyright Protection of Deep Learning Models", IEEE S&P 2022,
and the authors' program. Here queries are pixels in [0, 1] and models are in eval mode. The black-box half is
black_box.py, the white-box half layers.py, thresholds and the vote vote.py.

The headline layer's metrics are called lod, lad, nod, nad, those of the other cut layers lod@layer1 and so on: which
there are depends on the victim, so that `metrics_of` tells them by the names of the scores. The six vote.

Shapes: N seeds or cases, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.defenses.base import Defense, Fingerprint, Judgement
from rnet.defenses.calibration import FEWEST
from rnet.defenses.deepjudge.black_box import (
    jensen_shannon,
    make_cases,
    most_certain,
    part_logits,
    robustness_distance,
)
from rnet.defenses.deepjudge.config import DeepJudgeConfig
from rnet.defenses.deepjudge.layers import fuzz_layers, score_layers
from rnet.defenses.deepjudge.vote import majority_vote
from rnet.defenses.metric import Metric
from rnet.defenses.negatives import Negatives
from rnet.defenses.queries import check_suspect, logits_of, samples_per_chunk
from rnet.errors import UserError
from rnet.rewrites.modes import frozen_eval


class DeepJudge(Defense):
    """Six distances, four of them at every cut layer; needs labels for RobD, probabilities for JSD, weights for others.

    Tensors: case_NCHW, label_N, victim_NK of the black box; fuzz_NCHW, neuron_N, victim_phi_NC of the headline layer,
    fuzz_NCHW@layer1 and so on of the others. verify returns the metrics of the halves that are switched on in its
    config and in the fingerprint, but for those that need more of a suspect than it shows.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="robd", direction="distance", low=0.0, high=1.0, access="labels", share_of="num_cases"),
        Metric(name="jsd", direction="distance", low=0.0, high=math.log(2), access="probabilities"),
        Metric(name="lod", direction="distance", low=0.0, high=math.inf, access="white_box"),
        Metric(name="lad", direction="distance", low=0.0, high=math.inf, access="white_box"),
        Metric(name="nod", direction="distance", low=0.0, high=math.inf, access="white_box"),
        Metric(name="nad", direction="distance", low=0.0, high=math.inf, access="white_box"),
    )
    config: DeepJudgeConfig

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Seeds, adversarial cases and fuzzed cases of a victim, and the victim's own outputs on them.

        Raises UserError when too few seeds can be used, no adversarial or no fuzzed case succeeds, or the layer is not
        there. metadata says how many succeeded.
        """
        config = self.config
        if len(dataset.test) == 0 or len(dataset.train) == 0:
            raise UserError(f"dataset {dataset.name} needs training and test images; DeepJudge uses both")
        with frozen_eval(victim):
            chunk = samples_per_chunk(victim, dataset.test.pixels(torch.arange(1)), config.memory_mb)
            logits_NK = part_logits(victim, dataset.test, chunk)
            seeds_N = most_certain(logits_NK, dataset.test.labels_N, config.num_seeds, rank=config.seed_rank).cpu()
            if len(seeds_N) < config.min_seeds:
                raise UserError(
                    f"the victim classifies only {len(seeds_N)} of {len(dataset.test)} test images correctly, but "
                    f"defense.min_seeds={config.min_seeds}; lower it, or give the dataset a larger test part"
                )
            tensors: dict[str, Tensor] = {}
            metadata: dict[str, Any] = {"num_seeds": len(seeds_N)}
            for switched_on, extract_half in ((config.black_box, make_cases), (config.white_box, fuzz_layers)):
                if switched_on:
                    half_tensors, half_metadata = extract_half(config, victim, dataset, seeds_N, seed, chunk)
                    tensors |= half_tensors
                    metadata |= half_metadata
        return Fingerprint.of(self, dataset, seed, tensors, num_classes=logits_NK.shape[1], **metadata)

    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """robd, jsd in [0, 1] and [0, ln 2]; lod, lad, nod, nad >= 0, of each layer: distances, 0 for the victim.

        Raises UserError for another number of classes, for logits that are not finite, for a half the fingerprint does
        not hold, and, in the white-box half, for a suspect of another architecture.
        """
        halves = {"black_box": "case_NCHW", "white_box": "fuzz_NCHW"}
        for key, name in halves.items():
            if getattr(self.config, key) and name not in fingerprint.tensors:
                raise UserError(
                    f"defense.{key}=true, but the fingerprint was made without it; make it again or say false"
                )
        tensors = fingerprint.tensors
        first_1CHW = next(tensors[name][:1] for name in halves.values() if name in tensors)
        check_suspect(fingerprint, logits_of(suspect, first_1CHW))
        chunk = samples_per_chunk(suspect, first_1CHW, self.config.memory_mb)
        scores: dict[str, float] = {}
        left_out = self.left_out(suspect)
        if self.config.black_box:
            suspect_NK = logits_of(suspect, tensors["case_NCHW"], chunk)
            victim_NK = tensors["victim_NK"]
            labels_N = victim_NK.argmax(dim=1) if self.config.robd_labels == "victim" else tensors["label_N"]
            scores["robd"] = robustness_distance(labels_N, victim_NK, suspect_NK)
            if "jsd" not in left_out:
                scores["jsd"] = jensen_shannon(victim_NK, suspect_NK)
        if self.config.white_box and "lod" not in left_out:
            scores |= score_layers(self.config, fingerprint, suspect, chunk)
        return scores

    def asked_for(self) -> Sequence[Metric]:
        """Those of the halves that are switched on, of the headline layer."""
        return [
            metric
            for metric in self.metrics
            if (self.config.white_box if metric.access == "white_box" else self.config.black_box)
        ]

    def metrics_of(self, names: Iterable[str]) -> list[Metric]:
        """The six, then those of the other layers (lod@layer1), layer by layer in the order of the names."""
        names = list(dict.fromkeys(names))
        split = [name.partition("@") for name in names]
        layers = dict.fromkeys(layer for _, at, layer in split if at)
        others = [
            replace(metric, name=f"{metric.name}@{layer}")
            for layer in layers
            for metric in self.metrics
            if f"{metric.name}@{layer}" in names
        ]
        return [*super().metrics_of(names), *others]

    def judge(self, scores: Mapping[str, float], negatives: Negatives, false_positive_rate: float) -> Judgement:
        """Beside each metric's own verdict DeepJudge's vote, which decides if there are two negatives."""
        found = super().judge(scores, negatives, false_positive_rate)
        if len(negatives.fit.scores) < FEWEST:
            return found
        return replace(found, vote=majority_vote(scores, negatives, self.metrics))
