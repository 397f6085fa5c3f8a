"""DeepJudge: adversarial cases on logits (RobD, JSD) and fuzzed neurons at one layer (LOD, LAD, NOD, NAD).

Source: Chen et al., "Copy, Right? A Testing Framework for Copyright Protection of Deep Learning Models", IEEE S&P 2022,
and the authors' program. Here queries are pixels in [0, 1] and models are in eval mode. The black-box half is
black_box.py, the white-box half white_box.py, thresholds and the vote vote.py.

Shapes: N seeds, A adversarial cases, P fuzzed cases, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rnet.cutting.split import SplitModel
from rnet.data.images import Dataset
from rnet.defenses.base import Defense, Fingerprint, Judgement
from rnet.defenses.calibration import FEWEST
from rnet.defenses.deepjudge.black_box import (
    carlini_wagner,
    fgsm,
    jensen_shannon,
    most_certain,
    normalised_scalar_box,
    part_logits,
    pgd,
    robustness_distance,
)
from rnet.defenses.deepjudge.config import DeepJudgeConfig
from rnet.defenses.deepjudge.vote import majority_vote
from rnet.defenses.deepjudge.white_box import (
    fuzz_shared,
    largest_outputs,
    neuron_outputs,
    outputs_in_chunks,
    whitebox_distances,
)
from rnet.defenses.metric import Metric
from rnet.defenses.negatives import Negatives
from rnet.defenses.queries import check_suspect, logits_of, samples_per_chunk, seeded_indices
from rnet.draws import uniform
from rnet.errors import UserError
from rnet.parallel.collectives import map_rows
from rnet.rewrites.modes import device_of, frozen_eval


class DeepJudge(Defense):
    """Six distances; needs labels for RobD, probabilities for JSD, weights for the others.

    Tensors: case_NCHW, label_N, victim_NK of the black box; fuzz_NCHW, neuron_N, victim_phi_NC of the white box.
    verify returns the metrics of the halves that are switched on in its config and in the fingerprint, but for those
    that need more of a suspect than it shows.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="robd", direction="distance", low=0.0, high=1.0, access="labels", share_of="num_seeds"),
        Metric(name="jsd", direction="distance", low=0.0, high=math.log(2), access="probabilities"),
        Metric(name="lod", direction="distance", low=0.0, high=math.inf, access="white_box"),
        Metric(name="lad", direction="distance", low=0.0, high=math.inf, access="white_box"),
        Metric(name="nod", direction="distance", low=0.0, high=math.inf, access="white_box"),
        Metric(name="nad", direction="distance", low=0.0, high=math.inf, access="white_box"),
    )
    config: DeepJudgeConfig

    def __init__(self, config: DeepJudgeConfig) -> None:
        super().__init__(config)
        self.port = frozenset(config.released_port)

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Seeds, adversarial cases and fuzzed cases of a victim, and the victim's own outputs on them.

        Raises UserError when too few seeds can be used, no adversarial or no fuzzed case succeeds, or the layer is not
        there. metadata says how many succeeded.
        """
        if len(dataset.test) == 0 or len(dataset.train) == 0:
            raise UserError(f"dataset {dataset.name} needs training and test images; DeepJudge uses both")
        with frozen_eval(victim):
            chunk = samples_per_chunk(victim, dataset.test.pixels(torch.arange(1)), self.config.memory_mb)
            logits_NK = part_logits(victim, dataset.test, chunk)
            seeds_N = most_certain(
                logits_NK, dataset.test.labels_N, self.config.num_seeds, squared_logits="squared_logits" in self.port
            ).cpu()
            if len(seeds_N) < self.config.min_seeds:
                raise UserError(
                    f"the victim classifies only {len(seeds_N)} of {len(dataset.test)} test images correctly, but "
                    f"defense.min_seeds={self.config.min_seeds}; lower it, or give the dataset a larger test part"
                )
            tensors: dict[str, Tensor] = {}
            metadata: dict[str, Any] = {"num_seeds": len(seeds_N)}
            halves = (
                (self.config.black_box, self._extract_black_box),
                (self.config.white_box, self._extract_white_box),
            )
            for switched_on, extract_half in halves:
                if switched_on:
                    half_tensors, half_metadata = extract_half(victim, dataset, seeds_N, seed, chunk)
                    tensors |= half_tensors
                    metadata |= half_metadata
        return Fingerprint.of(self, dataset, seed, tensors, num_classes=logits_NK.shape[1], **metadata)

    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """robd, jsd in [0, 1] and [0, ln 2]; lod, lad, nod, nad >= 0: distances, 0 for the victim.

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
            labels_N = victim_NK.argmax(dim=1) if "victim_labels" in self.port else tensors["label_N"]
            scores["robd"] = robustness_distance(labels_N, victim_NK, suspect_NK)
            if "jsd" not in left_out:
                scores["jsd"] = jensen_shannon(victim_NK, suspect_NK)
        if self.config.white_box and "lod" not in left_out:
            suspect_NC = self._suspect_outputs(fingerprint, suspect, chunk)
            scores |= whitebox_distances(
                tensors["victim_phi_NC"], suspect_NC, tensors["neuron_N"], int(fingerprint.metadata["num_neurons"])
            )
        return scores

    def asked_for(self) -> Sequence[Metric]:
        """Those of the halves that are switched on."""
        return [
            metric
            for metric in self.metrics
            if (self.config.white_box if metric.access == "white_box" else self.config.black_box)
        ]

    def judge(self, scores: Mapping[str, float], negatives: Negatives, false_positive_rate: float) -> Judgement:
        """Beside each metric's own verdict DeepJudge's vote, which decides if there are two negatives."""
        found = super().judge(scores, negatives, false_positive_rate)
        if len(negatives.fit.scores) < FEWEST:
            return found
        return replace(found, vote=majority_vote(scores, negatives, self.metrics))

    def _extract_black_box(
        self, victim: nn.Module, dataset: Dataset, seeds_N: Tensor, seed: int, chunk: int
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        def search(share_N: Tensor) -> Tensor:
            found = []
            for indices_B in share_N.split(chunk):
                x_BCHW = dataset.test.pixels(indices_B, device_of(victim))
                labels_B = dataset.test.labels_N[indices_B].to(x_BCHW.device)
                found.append(self._adversarial(victim, x_BCHW, labels_B, dataset, indices_B, seed))
            return torch.cat(found)

        x_NCHW, labels_N = map_rows(search, seeds_N), dataset.test.labels_N[seeds_N]
        found_N = logits_of(victim, x_NCHW, chunk, role="victim").argmax(dim=1).cpu()
        fooled_A = (found_N != labels_N).nonzero().squeeze(1)
        if len(fooled_A) == 0:
            raise UserError(
                f"defense.attack={self.config.attack} fools the victim on none of {len(seeds_N)} seeds, so RobD and "
                f"JSD have no test case; raise defense.num_steps or defense.epsilon, or choose another attack"
            )
        case_ACHW = x_NCHW[fooled_A.to(x_NCHW.device)]
        tensors = {
            "case_NCHW": case_ACHW.cpu(),
            "label_N": labels_N[fooled_A],
            "victim_NK": logits_of(victim, case_ACHW, chunk, role="victim").cpu(),
        }
        return tensors, {"num_cases": len(fooled_A), "case_share": len(fooled_A) / len(seeds_N)}

    def _adversarial(
        self, victim: nn.Module, x_BCHW: Tensor, labels_B: Tensor, dataset: Dataset, indices_B: Tensor, seed: int
    ) -> Tensor:
        config, scalar_box = self.config, "scalar_box" in self.port
        if config.attack == "fgsm":
            return fgsm(victim, x_BCHW, labels_B, epsilon=config.epsilon, box=not scalar_box)
        if config.attack == "cw":
            return carlini_wagner(
                victim, x_BCHW, labels_B,
                confidence=config.cw_confidence, learning_rate=config.cw_learning_rate,
                num_steps=config.cw_steps, searches=config.cw_searches,
            )  # fmt: skip
        draws_BE = uniform(seed, "deepjudge/start", 0, indices_B, x_BCHW[0].numel(), device=x_BCHW.device)
        return pgd(
            victim, x_BCHW, labels_B, config.epsilon * (2 * draws_BE - 1).view_as(x_BCHW),
            step_size=config.step_size, num_steps=config.num_steps,
            radius=config.epsilon if config.project else None,
            box=normalised_scalar_box(dataset, x_BCHW.device) if scalar_box else None,
        )  # fmt: skip

    def _extract_white_box(
        self, victim: nn.Module, dataset: Dataset, seeds_N: Tensor, seed: int, chunk: int
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        config, device = self.config, device_of(victim)
        layer = self._layer_of(victim)
        phi = neuron_outputs(
            SplitModel(victim, layer, place="defense.layer"), image_columns="image_columns" in self.port
        )
        maximum_C = largest_outputs(phi, dataset.train, config.threshold_images, chunk, device)
        C = len(maximum_C)
        neuron_M = seeded_indices(C, min(config.max_neurons or C, C), seed, "deepjudge/neurons").sort().values
        seeds_NCHW = dataset.test.pixels(seeds_N[: config.num_fuzz_seeds], device)
        size_mb = len(seeds_NCHW) * len(neuron_M) * seeds_NCHW[0].numel() * 4 / 2**20
        if size_mb > config.max_fingerprint_mb:
            raise UserError(
                f"fuzzing {len(neuron_M)} neurons of {layer} from {len(seeds_NCHW)} seeds could take {size_mb:.0f} "
                f"MiB, more than defense.max_fingerprint_mb={config.max_fingerprint_mb}; raise it, or set "
                f"defense.max_neurons={max(1, int(len(neuron_M) * config.max_fingerprint_mb / size_mb))}"
            )
        fuzzed = fuzz_shared(
            phi, seeds_NCHW, neuron_M, config.threshold_factor * maximum_C[neuron_M.to(device)],
            learning_rate=config.learning_rate, max_steps=config.max_steps,
            box=config.box and "scalar_box" not in self.port, chunk=chunk,
        )  # fmt: skip
        kept = len(fuzzed.neuron_P)
        if kept == 0:
            unbox = "set defense.box=false, " if config.box else ""
            raise UserError(
                f"fuzzing brought none of {fuzzed.attempted} (seed, neuron) pairs of {layer} above "
                f"defense.threshold_factor={config.threshold_factor} times the largest output in training; "
                f"{unbox}raise defense.max_steps, lower the factor, choose another defense.layer, or set "
                f"defense.white_box=false"
            )
        tensors = {
            "fuzz_NCHW": fuzzed.x_PCHW,
            "neuron_N": fuzzed.neuron_P,
            "victim_phi_NC": outputs_in_chunks(phi, fuzzed.x_PCHW, chunk, device).cpu(),
        }
        return tensors, {
            "layer": layer,
            "num_channels": C,
            "num_neurons": len(neuron_M),
            "num_fuzzed": kept,
            "fuzz_failed_share": 1 - kept / fuzzed.attempted,
        }

    def _suspect_outputs(self, fingerprint: Fingerprint, suspect: nn.Module, chunk: int) -> Tensor:
        """The suspect's neuron outputs (P, C) on the fuzzed cases; UserError unless it has the victim's cut layer."""
        layer, expected = fingerprint.metadata["layer"], int(fingerprint.metadata["num_channels"])
        remedy = "for a suspect of another architecture set defense.white_box=false and keep the black-box metrics"
        with frozen_eval(suspect):
            try:
                split = SplitModel(suspect, layer, place="defense.layer")
            except UserError as error:
                raise UserError(
                    f"white-box metrics need the victim's cut layer in the suspect: {error}; {remedy}"
                ) from error
            phi = neuron_outputs(split, image_columns="image_columns" in self.port)
            suspect_NC = outputs_in_chunks(phi, fingerprint.tensors["fuzz_NCHW"], chunk, device_of(suspect))
        if suspect_NC.shape[1] != expected:
            raise UserError(
                f"white-box metrics compare neuron by neuron, but {layer} has {suspect_NC.shape[1]} channels in the "
                f"suspect and {expected} in the victim; {remedy}"
            )
        if not suspect_NC.isfinite().all():
            raise UserError(f"suspect {type(suspect).__name__} returns non-finite values at {layer}; did it diverge?")
        return suspect_NC

    def _layer_of(self, victim: nn.Module) -> str:
        """The layer of the config, or where the victim is cut usually."""
        layer = self.config.layer or getattr(victim, "cut_layer", None)
        if layer is not None:
            return layer
        backbone = getattr(victim, "backbone", victim)
        architecture = getattr(victim, "architecture", type(victim).__name__)
        raise UserError(
            f"defense.layer is not set and {architecture} has no usual cut layer; set defense.layer to one of "
            f"{', '.join(name for name, _ in backbone.named_children())} (or a module inside one), or "
            f"defense.white_box=false"
        )
