"""Where the attacker's images come from. No torch here, as in every configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rnet.config.component import ComponentConfig
from rnet.data.config import DatasetConfig
from rnet.errors import UserError

FROM_THE_VICTIM = ("image_size", "grayscale")
"""Keys of a data set that its images, as substitutes, take from the victim's."""


@dataclass(frozen=True, kw_only=True)
class OwnConfig(ComponentConfig):
    """The pool that dataset.substitute_pool reserves for the attacker, none of which the victim has seen."""

    name: str = "own"
    """Where the images come from."""


@dataclass(frozen=True, kw_only=True)
class VictimTrainConfig(ComponentConfig):
    """The victim's own training images, without their labels: what the released code of RemovalNet attacks with."""

    name: str = "victim_train"
    """Where the images come from."""


def as_substitute(config: DatasetConfig, *, image_size: int = 0, grayscale: bool = False) -> DatasetConfig:
    """The data set at the victim's size and with its channels; without them what ids say, for the victim's are there.

    The shorter side is resized to substitute.resize, where that is set, before the middle square is cut out.
    """
    return replace(config, image_size=image_size, grayscale=grayscale)


def check_substitute(config: ComponentConfig) -> None:
    """Raises UserError for values out of range."""
    if isinstance(config, DatasetConfig):
        config = as_substitute(config, image_size=config.resize or 0)  # resize is checked again at the victim's size
    config.check()


@contextmanager
def about_substitutes() -> Iterator[None]:
    """Inside, errors about dataset.* are about substitute.*."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub(r"(?<![\w./\\-])dataset(?=[.=])", "substitute", str(error))) from error
