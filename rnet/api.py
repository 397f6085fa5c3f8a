"""For one's own models and tensors, in memory: configured attacks and defences, and a dataset made of tensors.

    attack, defense = make_attack("removalnet", layer="layer2"), make_defense("ipguard", num_queries=50)
    fingerprint = defense.extract(victim, dataset_of(images, labels), seed=0)
    scores = defense.verify(fingerprint, attack(victim, substitutes))

Models take float pixels (B, C, H, W) in [0, 1] and return logits (B, K).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rnet.attacks.base import Attack
from rnet.attacks.registry import ATTACKS
from rnet.config.compose import option_settings
from rnet.config.profiles import with_profile
from rnet.config.typed import component, typed_dataclass
from rnet.data.config import DatasetConfig
from rnet.data.images import Dataset, RawImages, TensorSource
from rnet.data.loading import split_dataset
from rnet.defenses.base import Defense
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError


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


def _configured(group: str, option: str, settings: Mapping[str, Any]) -> Any:
    """The configuration of an option: what its file sets differently, a defence's profile, then the settings."""
    chosen = option_settings(group, option)
    if group == "defense":
        chosen = with_profile(chosen, settings)
    return component(group, {**chosen, **settings})
