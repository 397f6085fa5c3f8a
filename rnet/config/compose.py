"""The YAML groups, and their composition by Hydra: shipped options, the user's own, and plugins, which need no file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rnet.config.components import REGISTRIES
from rnet.errors import UserError, first_line, unknown_name


def config_folder() -> Path:
    """Where the YAML groups are: in the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def option_files(group: str, config_dir: Path | None = None) -> dict[str, Path]:
    """The YAML files of a group by the option's name; those in config_dir go before."""
    folders = [config_folder(), *([_user_folder(config_dir)] if config_dir else [])]
    found = {path.stem: path for folder in folders for path in (folder / group).glob("*.yaml")}
    return {name: found[name] for name in sorted(found)}


def option_names(group: str, config_dir: Path | None = None) -> list[str]:
    """What may be written after group=, but for package.module:Name: options with a file, and registered names."""
    registered = REGISTRIES[group].names() if group in REGISTRIES else []
    return sorted({*option_files(group, config_dir), *registered})


def compose_options(choices: Sequence[Override], config_dir: Path | None = None) -> DictConfig:
    """The tree of options chosen, presets merged in; to be read only. Raises UserError for an unknown option."""
    for override in choices:
        _make_known(override.key_or_group, override.value(), config_dir)
    return _compose(tuple(str(override.input_line) for override in choices), config_dir)


def _make_known(group: str, option: object, config_dir: Path | None) -> None:
    """Sees to it that Hydra finds the option; a plugin's has no file and sets nothing but the component's name."""
    name = str(option)
    if name in option_files(group, config_dir):
        return
    registry = REGISTRIES.get(group)
    if registry is not None and (":" in name or name in registry.names()):
        ConfigStore.instance().store(group=group, name=name, node={"name": registry.full_name(name)})
        return
    remedy = f"One of your own is written {group}=package.module:Name." if registry else ""
    raise unknown_name(group, option, option_names(group, config_dir), remedy=remedy)


@lru_cache(maxsize=1024)
def _compose(choices: tuple[str, ...], config_dir: Path | None) -> DictConfig:
    """A sweep composes few different trees; they are shared by all callers."""
    if config_dir:
        choices = (*choices, f"hydra.searchpath=[file://{config_dir.resolve()}]")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            return compose("config", overrides=list(choices))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"cannot compose the configuration: {first_line(error)}") from None


def _user_folder(config_dir: Path) -> Path:
    if not config_dir.is_dir():
        raise UserError(
            f"--config-dir={str(config_dir)!r} is not a folder; create it with e.g. dataset/mine.yaml inside"
        )
    return config_dir
