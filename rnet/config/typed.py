"""From a composed tree to dataclasses: every key and type checked, overrides last, seeds filled in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rnet.config.components import GROUPS, REGISTRIES, TOP_LEVEL
from rnet.errors import UserError, first_line, unknown_name
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
    return {key: merged[key] for key in TOP_LEVEL} | {group: _seeded(group, merged) for group in GROUPS}


def typed_component(group: str, values: Mapping[str, Any]) -> Any:
    """One component's dataclass; values names it and says what differs from its defaults. A seed not given stays None.

    Raises UserError for unknown keys and wrong types.
    """
    return _to_object(group, _merge(group, values.get("name"), OmegaConf.create(dict(values))))


def typed_dataclass(group: str, kind: type, values: Mapping[str, Any]) -> Any:
    """An instance of a configuration dataclass. Raises UserError for unknown keys and wrong types."""
    return _to_object(group, _fill(group, kind, OmegaConf.create(dict(values))))


def component_class(group: str, name: str | None) -> type:
    """The dataclass that configures a component of a group; without a name, the group's default."""
    if group not in REGISTRIES:
        return TrainConfig
    return REGISTRIES[group].config_class(name or REGISTRIES[group].base().name)


def _merge(group: str, name: object, node: DictConfig) -> DictConfig:
    """The component's dataclass with the node's values and the component's full name."""
    named = None if name is None else str(name)
    filled = _fill(group, component_class(group, named), node)
    if named:
        filled.name = REGISTRIES[group].full_name(named) if group in REGISTRIES else named
    return filled


def _fill(group: str, kind: type, node: DictConfig) -> DictConfig:
    """The dataclass with the node's values, as OmegaConf keeps it."""
    fields = [field.name for field in dataclasses.fields(kind)]
    for key in node:
        if key not in fields:
            raise unknown_name(f"{group} key", str(key), fields)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), node)
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


def _seeded(group: str, merged: DictConfig) -> Any:
    """The group's dataclass, with the run's seed where it has none of its own."""
    if "seed" in merged[group] and merged[group].seed is None:
        merged[group].seed = merged.seed
    return _to_object(group, merged[group])


def _to_object(group: str, node: DictConfig) -> Any:
    try:
        return OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise UserError(f"{group}: {first_line(error)}") from None
