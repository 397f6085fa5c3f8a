"""A run's configuration: options of YAML groups as typed dataclasses, overridden, checked and resolved.

    run = load_config(["dataset=digits", "attack=removalnet", "attack.iterations=10", "seed=3"])

The dataclass of a component stands in the config.py beside it (rnet/attacks/removalnet/config.py) and holds types,
defaults and what values are refused; configs/<group>/<option>.yaml holds what an option sets differently; overrides
come last. Nothing on this path imports torch, so that thousands of runs can be planned in seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnet.config.checks import check_names
from rnet.config.components import GROUPS, PRESETS, TOP_LEVEL
from rnet.config.compose import defaults, option_names, option_settings, preset_owner
from rnet.config.overrides import parse_override
from rnet.config.profiles import with_profile
from rnet.config.typed import component, without_files
from rnet.config.values import field_types, typed
from rnet.data.config import DatasetConfig
from rnet.data.substitute.config import FROM_THE_VICTIM
from rnet.engines.config import EngineConfig
from rnet.errors import UserError, unknown_name
from rnet.models.config import ModelConfig
from rnet.training.config import TrainConfig

PRECISIONS = ("fp32", "bf16", "fp16")
MOST_NEGATIVES = 10_000
NEGATIVE_KINDS = ("seeds", "halves", "disjoint", "architectures")

Overrides = tuple[tuple[str, str], ...]
"""(key within the group, text) of one group."""
Recipe = tuple[Any, ...]
"""What a component is made from: its group, the options chosen for it, its overrides."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One resolved run: what every stage of it is computed from."""

    dataset: DatasetConfig
    """The images and how they are split."""
    model: ModelConfig
    """The architecture of the victim (and of what is derived from it)."""
    train: TrainConfig
    """How a victim is trained."""
    substitute: Any
    """Where the attacker's images come from: the dataclass of own, victim_train or a data set."""
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
    negative_kinds: list[str]
    """Which ones, dealt in turn: seeds (trained as the victim was, from another seed), halves (on one half of its
    training images), disjoint (on the attacker's pool, which it never saw), architectures (negative_models). Empty for
    what the defence's null hypothesis demands: disjoint for Dataset Inference, else seeds."""
    negative_models: dict[str, ModelConfig]
    """For the kind architectures: options of model, e.g. [resnet20, mobilenet_v2], used in turn."""
    false_positive_rate: float
    """How often a verdict may call one more independent model derived, 0.05 for one in twenty."""


def load_config(overrides: Sequence[str] = (), *, config_dir: Path | None = None) -> RunConfig:
    """The resolved configuration for overrides, key=value; config_dir adds the user's own groups and options.

    Raises UserError for unknown groups, options and keys (with the nearest valid ones) and for wrong types.
    """
    return Configurations(config_dir).load(overrides)


class Configurations:
    """load_config for the rows of a sweep. Equal components are the same object in every configuration returned."""

    def __init__(self, config_dir: Path | None = None) -> None:
        self._config_dir = config_dir
        self._defaults = defaults()
        self._preset_names = {group: {*option_names(f"{group}_preset", config_dir)} for group in self._defaults.presets}
        self._settings: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._owners: dict[tuple[str, str], str | None] = {}
        self._components: dict[Recipe, Any] = {}
        self._seeded: dict[tuple[Recipe, int], Any] = {}
        self._tops: dict[Overrides, dict[str, Any]] = {}

    def load(self, lines: Sequence[str]) -> RunConfig:
        """The configuration for overrides. Raises UserError as load_config does."""
        chosen, given, top = self._sorted(lines)
        others = self._top_level(tuple(top.items()))
        run: dict[str, Any] = {}
        for group in GROUPS:
            run[group] = self._component(
                self._recipe(group, chosen, tuple(given[group].items()), run), run, others["seed"]
            )
        models = {name: component("model", self._option("model", name)) for name in others["negative_models"]}
        return RunConfig(**run, **{**others, "negative_models": models})

    def chosen(self, lines: Sequence[str]) -> dict[str, str]:
        """The option chosen of each group, by the name that the user knows it by: attack=permute, not obfuscate."""
        return {group: option for group, option in self._sorted(lines)[0].items() if group in GROUPS}

    def _sorted(self, lines: Sequence[str]) -> tuple[dict[str, str], dict[str, dict[str, str]], dict[str, str]]:
        """The options chosen, the keys set of each group, and the keys in none; of equal keys the last."""
        chosen = dict(self._defaults.options)
        given: dict[str, dict[str, str]] = {group: {} for group in GROUPS}
        top: dict[str, str] = {}
        for line in lines:
            key, text = parse_override(line)
            group, dot, field = key.partition(".")
            if key in GROUPS or key in PRESETS:
                chosen[key] = text
            elif dot and group in GROUPS:
                given[group][field] = text
            elif key in TOP_LEVEL:
                top[key] = text
            else:
                raise unknown_name("key", key, [*GROUPS, *PRESETS, *TOP_LEVEL])
        return chosen, given, top

    def _recipe(self, group: str, chosen: Mapping[str, str], given: Overrides, run: Mapping[str, Any]) -> Recipe:
        """For a component that holds one of another group, that other is part of the recipe."""
        fields = {field.partition(".")[0] for field, _ in given}
        held = (fields | self._option(group, chosen[group]).keys()) & run.keys()
        presets = self._found_presets(group, chosen, run)
        return (group, chosen[group], presets, given, *(id(run[name]) for name in sorted(held)))

    def _found_presets(self, group: str, chosen: Mapping[str, str], run: Mapping[str, Any]) -> tuple[str, ...]:
        """The options of the group's presets: the one named, or those that fit what is chosen and exist."""
        if named := chosen.get(f"{group}_preset"):
            return (named,)
        if group not in self._defaults.presets:
            return ()
        fitting = {**chosen, group: self._preset_owner(group, chosen[group]) or chosen[group]}
        fitting["family"] = self._defaults.family(run["model"].name)
        found = dict.fromkeys(pattern.format_map(fitting) for pattern in self._defaults.presets[group])
        if group == "train" and chosen["dataset"] in self._preset_names[group]:  # as they were once called
            name = chosen["dataset"]
            raise UserError(
                f"train_preset/{name}.yaml is a preset of no recipe; call it train_preset/default_{name}.yaml, or "
                f"choose it by train_preset={name}"
            )
        return tuple(name for name in found if name in self._preset_names[group])

    def _preset_owner(self, group: str, option: str) -> str | None:
        """Whose presets the option takes; its file is looked for once, not for each of a sweep's rows."""
        if (group, option) not in self._owners:
            self._owners[group, option] = preset_owner(group, option, self._config_dir)
        return self._owners[group, option]

    def _component(self, recipe: Recipe, run: Mapping[str, Any], seed: int) -> Any:
        if recipe not in self._components:
            self._components[recipe] = self._made(recipe, run)
        found = self._components[recipe]
        if "seed" not in field_types(found.__class__) or found.seed is not None:
            return found
        if (recipe, seed) not in self._seeded:
            self._seeded[recipe, seed] = dataclasses.replace(found, seed=seed)
        return self._seeded[recipe, seed]

    def _made(self, recipe: Recipe, run: Mapping[str, Any]) -> Any:
        group, option, presets, given = recipe[:4]
        own = self._option(group, option)
        settings = dict(own)
        if group == "defense":
            settings = with_profile(settings, dict(given), self._config_dir)
        for preset in presets:
            settings |= self._option(f"{group}_preset", preset)
        if presets and self._preset_owner(group, option):
            settings |= own
        for field, text in given:
            if group == "substitute" and field in FROM_THE_VICTIM:
                raise UserError(
                    f"substitute.{field}={text} cannot be set: substitutes take the victim's size and channels, "
                    f"dataset.{field}; take it out"
                )
            name, dot, inner = field.partition(".")
            if not dot:
                settings[name] = text
                continue
            if not isinstance(settings.get(name), dict):
                settings[name] = {} if settings.get(name) is None else {"": settings[name]}
            settings[name] = {**settings[name], inner: text}
        return component(group, settings, lambda field, inner: self._held(group, field, inner, run))

    def _held(self, owner: str, field: str, settings: Any, run: Mapping[str, Any]) -> Any:
        """The component that a field holds (attack.model): the option named, or the run's own but for what is set."""
        place = f"{owner}.{field}"
        words = settings if isinstance(settings, dict) else {"": settings}
        option, words = words.get(""), {key: value for key, value in words.items() if key != ""}
        try:
            if option is not None:
                return component(field, {**self._option(field, str(option)), **words})
            if "name" in words:
                return component(field, words)
            made = component(field, {"name": run[field].name, **words})
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        return dataclasses.replace(without_files(run[field]), **{key: getattr(made, key) for key in words})

    def _option(self, group: str, option: str) -> Mapping[str, Any]:
        if (group, option) not in self._settings:
            self._settings[group, option] = option_settings(group, option, self._config_dir)
        return self._settings[group, option]

    def _top_level(self, given: Overrides) -> dict[str, Any]:
        if given not in self._tops:
            values = {**self._defaults.top, **dict(given)}
            found = {key: typed(key, kind, values[key]) for key, kind in TOP_LEVEL.items()}
            _check_top_level(found)
            self._tops[given] = found
        return self._tops[given]


def _check_top_level(found: Mapping[str, Any]) -> None:
    if found["precision"] not in PRECISIONS:
        raise unknown_name("precision", found["precision"], PRECISIONS)
    if not 0 <= found["negatives"] <= MOST_NEGATIVES:
        raise UserError(f"negatives={found['negatives']} must be 0 or more, and at most {MOST_NEGATIVES:,}")
    check_names("negative_kinds", found["negative_kinds"], *NEGATIVE_KINDS)
    if bool(found["negative_models"]) != ("architectures" in found["negative_kinds"]):
        raise UserError(
            f"negative_kinds={found['negative_kinds']} and negative_models={found['negative_models']} do not fit; "
            "set both, e.g. negative_kinds=seeds,architectures negative_models=resnet20, or take negative_models out"
        )
    if not 0 < found["false_positive_rate"] <= 0.5:
        raise UserError(f"false_positive_rate={found['false_positive_rate']} must be above 0 and at most 0.5")
