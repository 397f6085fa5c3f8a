"""Sizes that no machine has room for are refused when settings are read, not when memory is asked for."""

from __future__ import annotations

import pytest

from rnet.config.checks import LARGEST
from rnet.config.components import GROUPS, REGISTRIES
from rnet.config.run import load_config
from rnet.config.values import field_types
from rnet.errors import UserError
from rnet.stages.graph import check_settings

HARMLESS = {
    "a limit, or at most what is there": (
        *("memory_mb", "max_memory_mb", "max_fingerprint_mb", "train_size", "test_size", "substitute_pool"),
        *(
            "per_class",
            "identities",
            "eval_samples",
            "checkpoint_steps",
            "log_every",
            "eval_every",
            "probe_every",
            "decay_every",
            "ema_steps",
            "step_epochs",
        ),
    ),
    "only takes long": (
        *("epochs", "iterations", "steps", "search_steps", "num_poison_steps", "num_steps", "cw_steps", "cw_searches"),
        *("max_steps", "mingd_steps", "max_multiple", "capped_multiple", "regressor_steps"),
    ),
    "a number that nothing grows with": ("seed", "split_seed", "zero_stage", "jpeg_quality"),
}


def _fields() -> list[str]:
    """Every whole number of every component, once in a group: "attack=removalnet attack.batch_size"."""
    found: dict[str, str] = {}
    for group in GROUPS:
        for name in REGISTRIES[group].own() if group in REGISTRIES else ["default"]:
            kind = type(load_config().train) if group == "train" else REGISTRIES[group].config_class(name)
            for key, type_ in field_types(kind).items():
                if type_ in (int, int | None):
                    found.setdefault(f"{group}.{key}", f"{group}={name} {group}.{key}")
    return [*found.values()]


@pytest.mark.parametrize("field", _fields())
def test_a_size_of_a_billion_is_refused_or_known_to_be_harmless(field: str) -> None:
    if field.rpartition(".")[2] in {name for names in HARMLESS.values() for name in names}:
        return
    chosen, key = field.split()
    with pytest.raises(UserError, match=key):
        load_config([*([chosen] if "train=" not in chosen else []), f"{key}=1000000000"])


@pytest.mark.parametrize(
    ("defense", "keys"),
    [("zest", ("num_images", "num_masks")), ("dataset_inference", ("num_draws", "sample_size"))],
)
def test_a_product_that_no_memory_holds_is_refused(defense: str, keys: tuple[str, str]) -> None:
    run = load_config([f"defense={defense}", *(f"defense.{key}=100000" for key in keys)])
    with pytest.raises(UserError, match=r"defense\.\w+=100000 times defense\.\w+=100000 is 10,000,000,000"):
        check_settings("fingerprint", run)


def test_defaults_and_ordinary_sizes_are_far_below_the_largest() -> None:
    assert load_config(["dataset.image_size=1024", "train.batch_size=4096", "model.width=512"]).model.width == 512
    assert load_config([f"dataset.image_size={LARGEST['image_size']}"]).dataset.image_size == LARGEST["image_size"]
