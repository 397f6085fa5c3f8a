"""Configuration: YAML groups composed by Hydra onto typed dataclasses, overridden, checked, resolved and hashed.

    run = load_config(["dataset=digits", "attack=removalnet", "attack.iterations=10", "seed=3"])

The dataclass of a component stands in the config.py beside it (rnet/attacks/config.py holds RemovalNetConfig) and holds
types, defaults and what values are refused; configs/<group>/<option>.yaml holds what an option sets differently;
overrides come last. Nothing on this path imports torch, so that thousands of runs can be planned in seconds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rnet.attacks.registry import ATTACKS
from rnet.data.config import DatasetConfig
from rnet.defenses.registry import DEFENSES
from rnet.engines.config import EngineConfig
from rnet.errors import UserError, unknown_name
from rnet.models.config import ModelConfig
from rnet.training.config import TrainConfig

GROUPS = ("dataset", "model", "train", "attack", "defense", "engine")
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One resolved run: what every stage of it is computed from."""

    dataset: DatasetConfig
    """The images and how they are split."""
    model: ModelConfig
    """The architecture of the victim (and of what is derived from it)."""
    train: TrainConfig
    """How a victim is trained."""
    attack: Any
    """The attack's own dataclass."""
    defense: Any
    """The defence's own dataclass."""
    engine: EngineConfig
    """How it is executed; never part of an id."""
    seed: int
    """The run's seed; components whose own seed is not set take this one."""
    precision: str
    """fp32; bf16 or fp16 for autocast over float32 parameters."""
    negatives: int
    """How many independently trained models calibrate a verdict."""
    false_positive_rate: float
    """How often a verdict may call one more independent model derived, 0.05 for one in twenty."""


_TOP_LEVEL_TYPES = {"seed": int, "precision": str, "negatives": int, "false_positive_rate": float}


def config_folder() -> Path:
    """Where the YAML groups are: in the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def load_config(overrides: Sequence[str] = (), *, config_dir: Path | None = None) -> RunConfig:
    """The resolved configuration for Hydra-style overrides; config_dir adds the user's own groups and options.

    Raises UserError for unknown groups, options and keys (with the nearest valid ones) and for wrong types.
    """
    parsed = parse_overrides(overrides)
    folders = [config_folder(), *([_user_folder(config_dir)] if config_dir else [])]
    choices = [o for o in parsed if o.key_or_group in GROUPS]
    values = [o for o in parsed if o.key_or_group not in GROUPS]
    for override in choices:
        _check_choice(override, folders)
    tree = _compose(tuple(str(o.input_line) for o in choices), config_dir)
    merged = OmegaConf.create({key: tree[key] for key in _TOP_LEVEL_TYPES})
    for group in GROUPS:
        component_class = _component_class(group, tree[group].get("name"))
        merged[group] = _merge(group, component_class, tree[group])
    for override in values:
        _set_value(merged, override)
    return _resolve(merged)


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them. Raises UserError for what is none, or lists, adds or removes values."""
    for line in overrides:
        if "=" not in line:
            raise UserError(f"override {line!r} has no '='; write it as key=value, e.g. attack.iterations=10")
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(f"cannot read the overrides {list(overrides)}: {_first_line(error)}") from None
    for override in parsed:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line!r} lists several values; give one, or quote a value with commas")
        if override.is_delete() or override.is_add() or override.is_force_add():
            raise UserError(f"{override.input_line!r}: keys cannot be added or removed; write key=value")
    return parsed


def expand_choices(
    overrides: Sequence[str], groups: Iterable[str] = ("attack", "attack.seed", "defense")
) -> list[list[str]]:
    """Overrides such as `attack=finetune,removalnet attack.seed=1,2` as one list per combination, in the order given.

    `defense=all` stands for every defence.
    """
    combinations: list[list[str]] = [[]]
    groups = set(groups)
    for line in overrides:
        key, _, value = line.partition("=")
        if (key, value) == ("defense", "all"):
            value = ",".join(DEFENSES.names())
        options = [f"{key}={v.strip()}" for v in value.split(",")] if key in groups else [line]
        combinations = [[*done, option] for done in combinations for option in options]
    return combinations


def option_names(group: str, config_dir: Path | None = None) -> list[str]:
    """The options of a group, e.g. every dataset with a file in configs/dataset."""
    folders = [config_folder(), *([config_dir] if config_dir else [])]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def as_dict(config: Any, *, hashed_only: bool = False) -> dict[str, Any]:
    """A component's dataclass as a plain dict. hashed_only leaves out fields that cannot change a result (paths)."""
    return {name: getattr(config, name) for name in _field_names(config.__class__, hashed_only)}


@lru_cache
def _field_names(kind: type, hashed_only: bool) -> list[str]:
    fields = dataclasses.fields(kind)
    return [field.name for field in fields if not (hashed_only and field.metadata.get("execution_only", False))]


def to_yaml(document: dict[str, Any]) -> str:
    """A document to read: sorted keys, block style. Shown and saved."""
    return yaml.safe_dump(document, sort_keys=True, default_flow_style=False, allow_unicode=True)


def content_id(document: dict[str, Any]) -> str:
    """16 hexadecimal digits that name a document by its content, whatever the order of keys and shared objects."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_to_dict(run: RunConfig) -> dict[str, Any]:
    """The whole resolved configuration as plain data, for `--print-config`."""
    return {
        field.name: as_dict(value) if dataclasses.is_dataclass(value := getattr(run, field.name)) else value
        for field in dataclasses.fields(run)
    }


def run_from_dict(document: Mapping[str, Any]) -> RunConfig:
    """The configuration of which run_to_dict made the document; nothing is composed.

    Raises UserError for components and keys that this code does not know.
    """
    try:
        groups = {group: _component_class(group, document[group].get("name"))(**document[group]) for group in GROUPS}
        return RunConfig(**{**document, **groups})
    except (KeyError, TypeError) as error:
        raise UserError(f"the configuration is of another version of rnet: {error}") from None


def _user_folder(config_dir: Path) -> Path:
    if not config_dir.is_dir():
        raise UserError(
            f"--config-dir={str(config_dir)!r} is not a folder; create it with e.g. dataset/mine.yaml inside"
        )
    return config_dir


def _check_choice(override: Override, folders: Sequence[Path]) -> None:
    group, value = override.key_or_group, override.value()
    options = {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
    if value not in options:
        raise unknown_name(group, value, options)


@lru_cache(maxsize=1024)
def _compose(choices: tuple[str, ...], config_dir: Path | None) -> DictConfig:
    """The composed tree of YAML groups; shared by all callers, who only read it. A sweep composes few of them."""
    if config_dir:
        choices = (*choices, f"hydra.searchpath=[file://{config_dir.resolve()}]")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            return compose("config", overrides=list(choices))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"cannot compose the configuration: {_first_line(error)}") from None


def _component_class(group: str, name: str | None) -> type:
    fixed: dict[str, type] = {
        "dataset": DatasetConfig, "model": ModelConfig, "train": TrainConfig, "engine": EngineConfig
    }  # fmt: skip
    if group in fixed:
        return fixed[group]
    return {"attack": ATTACKS, "defense": DEFENSES}[group].config_class(str(name))


def _merge(group: str, component_class: type, node: DictConfig) -> DictConfig:
    fields = [field.name for field in dataclasses.fields(component_class)]
    for key in node:
        if key not in fields:
            raise unknown_name(f"{group} key", str(key), fields)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(component_class), node)
    except OmegaConfBaseException as error:
        raise UserError(f"{group}: {_first_line(error)}") from None
    OmegaConf.set_readonly(merged, False)
    assert isinstance(merged, DictConfig)
    return merged


def _set_value(merged: DictConfig, override: Override) -> None:
    key, value = override.key_or_group, override.value()
    group, _, field = key.partition(".")
    if group not in GROUPS and key not in _TOP_LEVEL_TYPES:
        raise unknown_name("key", key, [*GROUPS, *_TOP_LEVEL_TYPES])
    if field and field not in merged[group]:
        raise unknown_name(f"{group} key", key, [f"{group}.{name}" for name in merged[group]])
    if not field:
        expected = _TOP_LEVEL_TYPES[key]
        if expected is float and type(value) is int:
            value = float(value)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise UserError(f"{key}={value!r} must be of type {expected.__name__}")
        merged[key] = value
        return
    try:
        merged[group][field] = value
    except OmegaConfBaseException as error:
        raise UserError(f"{key}={value!r} has the wrong type: {_first_line(error)}") from None


def _resolve(merged: DictConfig) -> RunConfig:
    if merged.precision not in PRECISIONS:
        raise unknown_name("precision", merged.precision, PRECISIONS)
    if merged.negatives < 0:
        raise UserError(f"negatives={merged.negatives} must be 0 or more")
    if not 0 < merged.false_positive_rate <= 0.5:
        raise UserError(f"false_positive_rate={merged.false_positive_rate} must be above 0 and at most 0.5")
    components: dict[str, Any] = {}
    for group in GROUPS:
        if "seed" in merged[group] and merged[group].seed is None:
            merged[group].seed = merged.seed
        try:
            components[group] = OmegaConf.to_object(merged[group])
        except OmegaConfBaseException as error:
            raise UserError(f"{group}: {_first_line(error)}") from None
    return RunConfig(**{key: merged[key] for key in _TOP_LEVEL_TYPES}, **components)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
