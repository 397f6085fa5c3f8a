"""The YAML groups: shipped options, the user's own, and components without a file, as what they set differently."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rnet.config.components import ALSO_OPTIONS_OF, GROUPS, PRESETS, REGISTRIES
from rnet.config.yaml_files import Table, read_mapping
from rnet.errors import UserError, unknown_name

_REFINED = {group.removesuffix("_preset") for group in PRESETS}


def config_folder() -> Path:
    """Where the YAML groups are: in the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def option_files(group: str, config_dir: Path | None = None) -> dict[str, Path]:
    """The YAML files of a group by the option's name; those in config_dir go before."""
    folders = [config_folder(), *([_user_folder(config_dir)] if config_dir else [])]
    groups = (*filter(None, (ALSO_OPTIONS_OF.get(group),)), group)
    found = {path.stem: path for folder in folders for one in groups for path in _files_in(folder / one)}
    return {name: found[name] for name in sorted(found)}


def _files_in(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder) if name.endswith(".yaml")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}; check its permissions") from None


def option_names(group: str, config_dir: Path | None = None) -> list[str]:
    """What may be written after group=, but for package.module:Name: options with a file, and registered names."""
    registered = REGISTRIES[group].names() if group in REGISTRIES else []
    return sorted({*option_files(group, config_dir), *registered})


def option_settings(group: str, option: str, config_dir: Path | None = None) -> Mapping[str, Any]:
    """What an option sets: the words of its file, or nothing but the component's name. Raises UserError."""
    if file := option_files(group, config_dir).get(option):
        settings = option_file(group, file)
        return {key: value for key, value in settings.items() if key != "presets"} if group in _REFINED else settings
    registry = REGISTRIES.get(group)
    if registry is not None and (":" in option or option in registry.names()):
        return {"name": registry.full_name(option)}
    remedy = f"One of your own is written {group}=package.module:Name." if registry else ""
    raise unknown_name(group, option, option_names(group, config_dir), remedy=remedy)


def preset_owner(group: str, option: str, config_dir: Path | None = None) -> str | None:
    """Whose presets an option takes, beneath its own settings, where its file names another (presets: removalnet)."""
    file = option_files(group, config_dir).get(option)
    named = read_mapping(file).get("presets") if file is not None and group in _REFINED else None
    return None if named is None else str(named)


def option_file(group: str, file: Path) -> Table:
    """The words of an option's file. Raises UserError for one that does not name its component."""
    settings = read_mapping(file)
    if group in REGISTRIES and "name" not in settings:
        example = defaults().options[group]
        raise UserError(
            f"{file}, line 1, column 1: `name:` is missing, which says what {group} it is; add it, e.g. name: {example}"
        )
    return settings


class Defaults(NamedTuple):
    """What a run is made of where nothing else is said."""

    options: dict[str, str]
    """Of each group."""
    presets: dict[str, list[str]]
    """How those of groups that have some are called."""
    families: dict[str, list[str]]
    """Of networks, by how their names begin."""
    top: dict[str, Any]
    """The keys in no group."""

    def family(self, architecture: str) -> str:
        """Of a network, by the longest beginning that fits its name; empty for one that is in none."""
        name = "" if ":" in architecture else architecture.rpartition("/")[2].lower()
        fitting = ((len(start), family) for family, starts in self.families.items() for start in starts
                   if name.startswith(start))  # fmt: skip
        return max(fitting, default=(0, ""))[1]


def defaults() -> Defaults:
    """What config.yaml says."""
    found = dict(read_mapping(config_folder() / "config.yaml"))
    options, presets, families = (found.pop(key) for key in ("defaults", "presets", "families"))
    assert set(options) == set(GROUPS)
    assert {f"{group}_preset" for group in presets} == set(PRESETS)
    lists = [{key: [*map(str, names)] for key, names in table.items()} for table in (presets, families)]
    return Defaults(options=dict(options), presets=lists[0], families=lists[1], top=found)


def _user_folder(config_dir: Path) -> Path:
    if not config_dir.is_dir():
        raise UserError(
            f"--config-dir={str(config_dir)!r} is not a folder; create it with e.g. dataset/mine.yaml inside"
        )
    return config_dir
