"""From a composed tree to dataclasses: every key and type checked, overrides last, seeds filled in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rnet.config.components import GROUPS, REGISTRIES, TOP_LEVEL
from rnet.config.overrides import first_line
from rnet.errors import UserError, unknown_name
from rnet.training.config import TrainConfig

PRECISIONS = ("fp32", "bf16", "fp16")


def typed_settings(tree: DictConfig, overrides: Sequence[Override]) -> dict[str, Any]:
    """Each group's dataclass and each other key's value. Raises UserError for unknown keys and wrong types."""
    names = {override.key_or_group: override.value() for override in overrides}
    merged = OmegaConf.create({key: tree[key] for key in TOP_LEVEL})
    for group in GROUPS:
        merged[group] = _merge(group, names.get(f"{group}.name", tree[group].get("name")), tree[group])
    for override in overrides:
        if override.key_or_group not in [f"{group}.name" for group in GROUPS]:
            _set_value(merged, override)
    _check_top_level(merged)
    return {key: merged[key] for key in TOP_LEVEL} | {group: _object(group, merged) for group in GROUPS}


def component_class(group: str, name: str | None) -> type:
    """The dataclass that configures a component of a group; without a name, the group's default."""
    if group not in REGISTRIES:
        return TrainConfig
    return REGISTRIES[group].config_class(name or REGISTRIES[group].base().name)


def _merge(group: str, name: object, node: DictConfig) -> DictConfig:
    """The component's dataclass with the node's values, as OmegaConf keeps it."""
    named = None if name is None else str(name)
    kind = component_class(group, named)
    fields = [field.name for field in dataclasses.fields(kind)]
    for key in node:
        if key not in fields:
            raise unknown_name(f"{group} key", str(key), fields)
    chosen = {}
    if named:
        chosen["name"] = REGISTRIES[group].full_name(named) if group in REGISTRIES else named
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), node, chosen)
    except OmegaConfBaseException as error:
        raise UserError(f"{group}: {first_line(error)}") from None
    OmegaConf.set_readonly(merged, False)
    assert isinstance(merged, DictConfig)
    return merged


def _set_value(merged: DictConfig, override: Override) -> None:
    key, value = override.key_or_group, override.value()
    group, _, field = key.partition(".")
    if group not in GROUPS and key not in TOP_LEVEL:
        raise unknown_name("key", key, [*GROUPS, *TOP_LEVEL])
    if field and field not in merged[group]:
        raise unknown_name(f"{group} key", key, [f"{group}.{name}" for name in merged[group]])
    if not field:
        expected = TOP_LEVEL[key]
        if expected is float and type(value) is int:
            value = float(value)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise UserError(f"{key}={value!r} must be of type {expected.__name__}")
        merged[key] = value
        return
    try:
        merged[group][field] = value
    except OmegaConfBaseException as error:
        raise UserError(f"{key}={value!r} has the wrong type: {first_line(error)}") from None


def _check_top_level(merged: DictConfig) -> None:
    if merged.precision not in PRECISIONS:
        raise unknown_name("precision", merged.precision, PRECISIONS)
    if merged.negatives < 0:
        raise UserError(f"negatives={merged.negatives} must be 0 or more")
    if not 0 < merged.false_positive_rate <= 0.5:
        raise UserError(f"false_positive_rate={merged.false_positive_rate} must be above 0 and at most 0.5")


def _object(group: str, merged: DictConfig) -> Any:
    if "seed" in merged[group] and merged[group].seed is None:
        merged[group].seed = merged.seed
    try:
        return OmegaConf.to_object(merged[group])
    except OmegaConfBaseException as error:
        raise UserError(f"{group}: {first_line(error)}") from None
