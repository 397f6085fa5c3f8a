"""For one's own models and tensors, in memory: configured attacks and defences, and a dataset made of tensors.

    dataset = dataset_of(images, labels, substitute_pool=400)
    attack, defense = make_attack("removalnet", layer="layer2"), make_defense("ipguard", num_queries=50)
    stolen = attack(victim, dataset.substitute, run=watch("curves", victim, dataset))
    print(judge(defense, dataset, victim, {"attacked": stolen}, independent=models)["attacked"].label)

Models take float pixels (B, C, H, W) in [0, 1] and return logits (B, K).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnet.attacks.base import Attack
from rnet.attacks.registry import ATTACKS
from rnet.config.compose import option_settings
from rnet.config.profiles import with_profile
from rnet.config.typed import component, typed_dataclass
from rnet.data.config import DatasetConfig
from rnet.data.images import Dataset, RawImages, TensorSource
from rnet.data.loading import split_dataset
from rnet.defenses.base import Defense, Judgement
from rnet.defenses.negatives import Negatives
from rnet.defenses.registry import DEFENSES
from rnet.engines.config import EngineConfig
from rnet.errors import UserError
from rnet.rewrites.modes import device_of
from rnet.stages.probes import make_probe
from rnet.storage.json_files import read_log
from rnet.training.fidelity import measure_on, predict
from rnet.training.loop import Run


def make_attack(option: str, **settings: Any) -> Attack:
    """A configured attack, without any presets: attack(victim, images) is a copy of the victim, attacked.

    option: a name that `rnet list attacks` shows, or package.module:Name. settings: as in attack.*. Raises UserError
    for unknown names, keys and wrong types, as the command line does.
    """
    return ATTACKS.build(_configured("attack", option, settings))


def make_defense(option: str, **settings: Any) -> Defense:
    """A configured defence, which can extract, verify and judge. option, settings: as in make_attack."""
    return DEFENSES.build(_configured("defense", option, settings))


def dataset_of(
    images_NCHW: Tensor, labels_N: Tensor, *, name: str = "own", flip: bool = False, **settings: Any
) -> Dataset:
    """One's own labelled images in three disjoint parts: for the victim, the attacker and measurement.

    images_NCHW: uint8, or floats in [0, 1], which are rounded to 256 levels. labels_N: int64 from 0. flip: whether a
    mirrored image is still one of its class. settings: as in dataset.*: substitute_pool, train_size, test_size, ...
    """
    if images_NCHW.ndim != 4:
        raise UserError(f"images have the shape {tuple(images_NCHW.shape)}; give (N, C, H, W)")
    if images_NCHW.is_floating_point():
        low, high = float(images_NCHW.min()), float(images_NCHW.max())
        if low < 0 or high > 1:
            raise UserError(f"images range from {low:g} to {high:g}; give pixels in [0, 1], and normalise in the model")
        images_NCHW = (images_NCHW * 255).round().to(torch.uint8)
    config = typed_dataclass("dataset", DatasetConfig, {"name": name, "flip": flip, **settings})
    config.check()
    raw = RawImages(
        train=TensorSource(images_NCHW.cpu()), train_labels_N=labels_N.cpu().long(),
        num_classes=int(labels_N.max()) + 1, flip=flip,
    )  # fmt: skip
    return split_dataset(raw, config)


def watch(
    folder: Path | str, victim: nn.Module, dataset: Dataset, *, layer: str | None = None, every: int = 10,
    quiet: bool = False,
) -> Run:  # fmt: skip
    """What makes an attack write curves, as attack(victim, images, run=watch(...)): for TensorBoard, and for `curves`.

    folder: for the curves; those of an earlier attack are dropped. dataset: on whose test part accuracy, agreement and
    the evasion probes (docs/monitoring.md) are measured, every so many steps. layer: where features are compared.
    quiet: no progress on stderr.
    """
    if every < 1:
        raise UserError(f"every={every} must be at least 1")
    frozen, device = copy.deepcopy(victim).eval().requires_grad_(False), device_of(victim)
    test = dataset.test.to(device)
    return Run(
        label="attack", device=device, folder=Path(folder), resumable=False, quiet=quiet,
        config=EngineConfig(eval_every=every, probe_every=every, log_every=every),
        measure=measure_on(test, predict(frozen, test, who="the victim")),
        probe=make_probe(frozen, test, layer, device),
    )  # fmt: skip


def curves(folder: Path | str) -> dict[str, tuple[list[int], list[float]]]:
    """The curves in a folder that `watch` named, or of a stage of a store: by tag its steps and its values."""
    path = Path(folder) / "log.jsonl"
    if not path.is_file():
        raise UserError(f"{path} does not exist; name the folder that an attack wrote curves to")
    found: dict[str, tuple[list[int], list[float]]] = {}
    for values in read_log(path):
        for tag in values.keys() - {"step", "time"}:
            steps, numbers = found.setdefault(tag, ([], []))
            steps.append(values["step"])
            numbers.append(values[tag])
    return dict(sorted(found.items()))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a defence says of one suspect. scores: by metric. judgement: by metric, too, and its vote."""

    scores: dict[str, float]
    judgement: Judgement

    @property
    def label(self) -> str:
        """The verdict: derived, independent or undecided."""
        return self.judgement.overall.label

    @property
    def reason(self) -> str:
        """One sentence with the numbers."""
        return self.judgement.overall.reason

    @property
    def score(self) -> float:
        """That of the metric which decides."""
        return next(self.scores[name] for name in self.judgement.metrics)

    @property
    def threshold(self) -> float | None:
        """Of the same metric; None where there is none."""
        return next(iter(self.judgement.metrics.values())).threshold


def judge(
    defense: Defense, dataset: Dataset, victim: nn.Module, suspects: Mapping[str, nn.Module],
    independent: Sequence[nn.Module], *, false_positive_rate: float = 0.05, seed: int = 0,
) -> dict[str, Judged]:  # fmt: skip
    """What a defence says of each suspect: its fingerprint of the victim is made once, and verified on all of them.

    independent: models that do not derive from the victim, trained for the same job; the scores of suspects are
    compared with theirs, and at least one is needed. false_positive_rate: how often, at most, a further model like
    these is to be called derived. seed: of the fingerprint.
    """
    if not independent:
        raise UserError("a verdict compares with independent models; give at least one")
    fingerprint = defense.extract(victim, dataset, seed=seed)
    negatives = Negatives.of([defense.verify(fingerprint, model) for model in independent])
    scores = {name: defense.verify(fingerprint, suspect) for name, suspect in suspects.items()}
    return {
        name: Judged(scores=found, judgement=defense.judge(found, negatives, false_positive_rate))
        for name, found in scores.items()
    }


def _configured(group: str, option: str, settings: Mapping[str, Any]) -> Any:
    """The configuration of an option: what its file sets differently, a defence's profile, then the settings."""
    chosen = option_settings(group, option)
    if group == "defense":
        chosen = with_profile(chosen, settings)
    return component(group, {**chosen, **settings})
