"""DeepJudge's white-box half, layer by layer: which layers are looked at, their fuzzed cases, a suspect's distances.

Shapes: N seeds or cases, M targeted neurons, P cases, C channels (of images in x, of the cut layer in phi), H height, W
width.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rnet.cutting.split import SplitModel
from rnet.data.images import Dataset
from rnet.defenses.base import Fingerprint
from rnet.defenses.deepjudge.black_box import units_of
from rnet.defenses.deepjudge.config import DeepJudgeConfig
from rnet.defenses.deepjudge.fuzzing import Fuzzed, Phi, equally_many, fuzz_shared
from rnet.defenses.deepjudge.white_box import largest_outputs, neuron_outputs, outputs_in_chunks, whitebox_distances
from rnet.defenses.queries import seeded_indices
from rnet.errors import UserError
from rnet.rewrites.modes import device_of, frozen_eval

log = logging.getLogger(__name__)


def cut_layers(victim: nn.Module) -> tuple[str, ...]:
    """Where the victim is usually cut, from input to output; nothing for a model that does not say."""
    return tuple(getattr(victim, "cut_layers", ()))


def headline_layer(config: DeepJudgeConfig, victim: nn.Module) -> str:
    """The layer of the config, or the last but one of the victim's cuts; the last, if attacks cut at that one.

    Attacks cut at the second unless told otherwise. Raises UserError for a victim without usual cuts.
    """
    if config.layer is not None:
        return config.layer
    if cuts := cut_layers(victim):
        last_but_one = max(0, len(cuts) - 2)
        return cuts[last_but_one if last_but_one != 1 else -1]
    backbone = getattr(victim, "backbone", victim)
    architecture = getattr(victim, "architecture", type(victim).__name__)
    raise UserError(
        f"defense.layer is not set and {architecture} has no usual cut layer; set defense.layer to one of "
        f"{', '.join(name for name, _ in backbone.named_children())} (or a module inside one), or "
        f"defense.white_box=false"
    )


def looked_at(config: DeepJudgeConfig, victim: nn.Module) -> list[str]:
    """The layers that are fuzzed: the victim's cuts from input to output, the headline layer among them or after."""
    headline = headline_layer(config, victim)
    return [headline] if config.layers == "headline" else list(dict.fromkeys([*cut_layers(victim), headline]))


def key(tensor: str, layer: str, headline: str) -> str:
    """What a tensor or a metric of a layer is called: of the headline layer by its name alone."""
    return tensor if layer == headline else f"{tensor}@{layer}"


def fuzz_layers(
    config: DeepJudgeConfig, victim: nn.Module, dataset: Dataset, seeds_N: Tensor, seed: int, chunk: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """For every layer fuzz_NCHW, neuron_N and the victim's own outputs victim_phi_NC; and what the metadata say.

    A layer other than the headline of which no neuron can be driven far enough is left out, and said. Raises UserError
    where the headline is, where a layer is not there, and where the images would take too much room.
    """
    headline, device = headline_layer(config, victim), device_of(victim)
    phis, targets = {}, {}
    for layer in looked_at(config, victim):
        phi = neuron_outputs(SplitModel(victim, layer, place="defense.layer"), neuron=config.neuron)
        phis[layer], targets[layer] = phi, _targets(config, phi, dataset, seeds_N, seed, chunk, device)
    seeds_NCHW = dataset.test.pixels(seeds_N[: config.num_fuzz_seeds], device)
    _check_size(config, seeds_NCHW, {layer: len(neuron_M) for layer, (neuron_M, _, _) in targets.items()})
    tensors: dict[str, Tensor] = {}
    about: dict[str, Any] = {}
    for layer, phi in phis.items():
        neuron_M, threshold_M, channels = targets[layer]
        fuzzed = fuzz_shared(
            phi, seeds_NCHW, neuron_M, threshold_M,
            learning_rate=config.learning_rate, max_steps=config.max_steps, box=config.box, chunk=chunk,
            keras=config.adam == "keras", best_attempt=config.best_attempt,
            unit_C11=units_of(config, dataset, seeds_NCHW.device) if config.units == "normalised" else None,
        )  # fmt: skip
        if config.equal_cases:
            fuzzed = equally_many(fuzzed, neuron_M)
        about[layer] = {
            "num_channels": channels, "num_neurons": len(neuron_M), "num_fuzzed": len(fuzzed.neuron_P),
            "fuzz_failed_share": 1 - fuzzed.reached / fuzzed.attempted,
        }  # fmt: skip
        if len(fuzzed.neuron_P) == 0:
            _refuse_or_say(config, layer, headline, fuzzed)
            continue
        tensors |= {
            key("fuzz_NCHW", layer, headline): fuzzed.x_PCHW,
            key("neuron_N", layer, headline): fuzzed.neuron_P,
            key("victim_phi_NC", layer, headline): outputs_in_chunks(
                phi, fuzzed.x_PCHW, chunk, seeds_NCHW.device
            ).cpu(),
        }
    return tensors, {"layer": headline, "layers": about}


def _targets(
    config: DeepJudgeConfig, phi: Phi, dataset: Dataset, seeds_N: Tensor, seed: int, chunk: int, device: torch.device
) -> tuple[Tensor, Tensor, int]:
    """The targeted neurons of a layer (M,), on the CPU, their thresholds (M,), and how many neurons it has."""
    part, count = dataset.train, config.threshold_images
    if config.threshold_from == "seeds":
        part, count = dataset.test.subset(seeds_N), len(seeds_N)
    maximum_C = largest_outputs(phi, part, count, chunk, device)
    C = len(maximum_C)
    M = min(config.max_neurons or C, C)
    neuron_M = torch.arange(M)
    if config.neurons == "drawn":
        neuron_M = seeded_indices(C, M, seed, "deepjudge/neurons").sort().values
    return neuron_M, config.threshold_factor * maximum_C[neuron_M.to(device)] + config.threshold_margin, C


def _check_size(config: DeepJudgeConfig, seeds_NCHW: Tensor, neurons: Mapping[str, int]) -> None:
    total = sum(neurons.values())
    size_mb = len(seeds_NCHW) * total * seeds_NCHW[0].numel() * 4 / 2**20
    if size_mb > config.max_fingerprint_mb:
        most = max(1, int(config.max_fingerprint_mb / size_mb * total / len(neurons)))
        raise UserError(
            f"fuzzing {total} neurons of {', '.join(neurons)} from {len(seeds_NCHW)} seeds could take {size_mb:.0f} "
            f"MiB, more than defense.max_fingerprint_mb={config.max_fingerprint_mb}; raise it, or set "
            f"{'defense.layers=headline or ' if len(neurons) > 1 else ''}defense.max_neurons={most}"
        )


def _refuse_or_say(config: DeepJudgeConfig, layer: str, headline: str, fuzzed: Fuzzed) -> None:
    unbox = "set defense.box=false, " if config.box else ""
    why = (
        f"fuzzing brought none of {fuzzed.attempted} (seed, neuron) pairs of {layer} above "
        f"defense.threshold_factor={config.threshold_factor} times the largest output in training"
    )
    if config.equal_cases and fuzzed.reached:
        why = f"some neuron of {layer} has no case, so that defense.equal_cases=true leaves none to the others"
    if layer == headline:
        raise UserError(
            f"{why}; {unbox}raise defense.max_steps, lower the factor, choose another defense.layer, or set "
            f"defense.white_box=false"
        )
    log.warning("deepjudge: %s; its metrics are left out", why)


def score_layers(config: DeepJudgeConfig, fingerprint: Fingerprint, suspect: nn.Module, chunk: int) -> dict[str, float]:
    """lod, lad, nod and nad of the headline layer, then of the others (lod@layer1), those that were fuzzed.

    Raises UserError unless the suspect has the victim's layers.
    """
    headline, tensors = fingerprint.metadata["layer"], fingerprint.tensors
    scores: dict[str, float] = {}
    for layer, about in sorted(fingerprint.metadata["layers"].items(), key=lambda item: item[0] != headline):
        if key("fuzz_NCHW", layer, headline) not in tensors or (layer != headline and config.layers == "headline"):
            continue
        x_NCHW, victim_NC, neuron_N = (
            tensors[key(name, layer, headline)] for name in ("fuzz_NCHW", "victim_phi_NC", "neuron_N")
        )
        suspect_NC = _suspect_outputs(config, suspect, layer, int(about["num_channels"]), x_NCHW, chunk)
        found = whitebox_distances(victim_NC, suspect_NC, neuron_N, int(about["num_neurons"]))
        scores |= {key(name, layer, headline): score for name, score in found.items()}
    return scores


def _suspect_outputs(
    config: DeepJudgeConfig, suspect: nn.Module, layer: str, expected: int, x_NCHW: Tensor, chunk: int
) -> Tensor:
    """The suspect's neuron outputs (P, C) on the fuzzed cases of a layer; UserError unless it has that layer."""
    remedy = "for a suspect of another architecture set defense.white_box=false and keep the black-box metrics"
    with frozen_eval(suspect):
        try:
            split = SplitModel(suspect, layer, place="defense.layer")
        except UserError as error:
            raise UserError(
                f"white-box metrics need the victim's cut layer in the suspect: {error}; {remedy}"
            ) from error
        phi = neuron_outputs(split, neuron=config.neuron)
        suspect_NC = outputs_in_chunks(phi, x_NCHW, chunk, device_of(suspect))
    if suspect_NC.shape[1] != expected:
        raise UserError(
            f"white-box metrics compare neuron by neuron, but {layer} has {suspect_NC.shape[1]} channels in the "
            f"suspect and {expected} in the victim; {remedy}"
        )
    if not suspect_NC.isfinite().all():
        raise UserError(f"suspect {type(suspect).__name__} returns non-finite values at {layer}; did it diverge?")
    return suspect_NC
