"""What configurations check of their values: messages name the setting, its value and what is valid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rnet.errors import UserError, unknown_name

_PIXELS, _COUNT = 16_384, 1_000_000
LARGEST = {
    **dict.fromkeys(("image_size", "resize", "input_size", "patch_size", "mingd_pixels"), _PIXELS),
    **dict.fromkeys(("batch_size", "substitute_size", "queries", "clusters", "round_size", "sample_size"), _COUNT),
    **dict.fromkeys(("num_images", "num_masks", "num_queries", "num_pairs", "num_draws", "num_directions"), _COUNT),
    **dict.fromkeys(("num_seeds", "min_seeds", "num_fuzz_seeds", "num_regressor_images"), _COUNT),
    **dict.fromkeys(("num_suspect_images", "threshold_images", "max_neurons", "num_classes", "accumulate"), _COUNT),
    **dict.fromkeys(("width", "hidden_size", "in_channels"), 65_536),
    **dict.fromkeys(("crop_padding", "layers"), 1_024),
    "workers": 256,
    "rand_augment": 30,
}
"""By the name of a setting, the largest value that can be meant: memory grows with it, or with its square."""


def check_largest(group: str, values: Mapping[str, Any]) -> None:
    """Raises UserError for a value that no machine has room for. values: of a component, typed, by field."""
    for key, value in values.items():
        if isinstance(value, int) and value > LARGEST.get(key, value):
            raise UserError(f"{group}.{key}={value} is too large; at most {LARGEST[key]:,}")


def check_product(group: str, config: Any, most: int, *keys: str) -> None:
    """Raises UserError for settings whose product is larger than any memory."""
    product = math.prod(getattr(config, key) for key in keys)
    if product > most:
        what = " times ".join(f"{group}.{key}={getattr(config, key)}" for key in keys)
        raise UserError(f"{what} is {product:,}; at most {most:,}, lower one of them")


def check_positive(group: str, config: Any, *keys: str) -> None:
    """Raises UserError unless every key's value is above 0. group: attack, train, ..."""
    for key in keys:
        if not getattr(config, key) > 0:
            raise UserError(f"{group}.{key}={getattr(config, key)} must be above 0")


def check_at_least_1(group: str, config: Any, *keys: str) -> None:
    """Raises UserError unless every key's value is 1 or more."""
    for key in keys:
        if getattr(config, key) < 1:
            raise UserError(f"{group}.{key}={getattr(config, key)} must be at least 1")


def check_at_least_0(group: str, config: Any, *keys: str) -> None:
    """Raises UserError for a negative value, and for NaN."""
    for key in keys:
        if not getattr(config, key) >= 0:
            raise UserError(f"{group}.{key}={getattr(config, key)} must be 0 or more")


def check_share(group: str, config: Any, *keys: str) -> None:
    """Raises UserError unless every key's value is at least 0 and below 1."""
    for key in keys:
        if not 0 <= getattr(config, key) < 1:
            raise UserError(f"{group}.{key}={getattr(config, key)} must be at least 0 and below 1")


def check_names(setting: str, names: Sequence[str], *valid: str) -> None:
    """Raises UserError, with the nearest valid one, for a name that is not among the valid ones. setting: group.key."""
    for name in names:
        if name not in valid:
            raise unknown_name(setting, name, valid)
