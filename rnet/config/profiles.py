"""The profiles of defences: all choices of one source (the authors' program, a port of it) under one name.

configs/defense_profile/zest_original.yaml holds what defense.profile=original sets for defense=zest, with a comment
that names the source. The values end up in the resolved settings, so that ids know the values and not the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnet.config.compose import option_files
from rnet.config.values import typed
from rnet.config.yaml_files import Table, place_of, read_mapping
from rnet.errors import UserError, unknown_name

FOLDER = "defense_profile"


def profiles_of(defense: str, config_dir: Path | None = None) -> dict[str, Path]:
    """The files of a defence's profiles by profile; those in config_dir go before."""
    prefix = f"{defense}_"
    files = option_files(FOLDER, config_dir)
    return {name.removeprefix(prefix): path for name, path in files.items() if name.startswith(prefix)}


def with_profile(option: Mapping[str, Any], given: Mapping[str, Any], config_dir: Path | None = None) -> dict[str, Any]:
    """The settings of a defence's option, with the values of the profile that it or `given` names.

    A profile that is given goes over what the option's file says; of a file that names a profile itself, the other
    settings go over that profile. Raises UserError for a profile that does not exist, and for one that says which
    defence or which profile it is.
    """
    named = given.get("profile", option.get("profile"))
    profile = typed("defense.profile", str | None, named)
    if profile is None:
        return dict(option)
    values = _values(str(option.get("name", "")), profile, place_of(named), config_dir)
    return {**option, **values} if "profile" in given else {**values, **option}


def _values(defense: str, profile: str, place: str, config_dir: Path | None) -> Table:
    known = profiles_of(defense, config_dir)
    if not known:
        raise UserError(f"{place}defense.profile={profile!r}: defense={defense} has no profiles; leave it out")
    if profile not in known:
        raise UserError(f"{place}{unknown_name(f'defense={defense} defense.profile', profile, known)}")
    values = read_mapping(known[profile])
    for key in values:
        if key in ("name", "profile"):
            raise UserError(f"{place_of(key)}a profile sets values of one defence; take {str(key)!r} out")
    return values
