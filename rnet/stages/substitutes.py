"""The attacker's images in the attack stage: where they come from, whether they suffice, and what is said of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from rnet.config.run import RunConfig
from rnet.data.config import DatasetConfig
from rnet.data.files.digest import change_of
from rnet.data.images import Dataset
from rnet.data.substitute.config import about_substitutes, as_substitute
from rnet.data.substitute.loading import in_words, shared_images, with_substitutes
from rnet.errors import UserError
from rnet.stages.graph import takes_substitutes

logger = logging.getLogger(__name__)


def attackers_dataset(config: RunConfig, dataset: Dataset) -> Dataset:
    """The victim's data set with the attacker's images as its substitute part.

    Raises UserError for images that cannot be read or converted.
    """
    return with_substitutes(dataset, config.substitute) if takes_substitutes(config) else dataset


def check_size(config: RunConfig, dataset: Dataset) -> None:
    """Raises UserError where the attack wants more images than there are; warns where it wants none."""
    name = config.substitute.name
    if takes_substitutes(config):
        if (wanted := config.attack.substitute_size) > (there := len(dataset.substitute)):
            raise UserError(
                f"attack.substitute_size={wanted} is larger than the {there:,} images of substitute={name}; lower it"
            )
    elif name != "own":
        logger.warning("substitute=%s has no effect: attack=%s uses no unlabelled images", name, config.attack.name)


def about_images(config: RunConfig, dataset: Dataset, say: Callable[[str], None]) -> dict[str, Any]:
    """What the result says of the attacker's images, which is also told; nothing where the attack has none.

    dataset: as attackers_dataset returned it.
    """
    if not config.attack.uses_substitutes:
        return {}
    about: dict[str, Any] = {"from": config.substitute.name, "images": len(dataset.substitute)}
    if takes_substitutes(config):
        say(in_words(dataset, config.substitute))
        if isinstance(config.substitute, DatasetConfig) and (shared := shared_images(dataset)) is not None:
            about |= shared
            if any(shared.values()):
                training, test = shared.values()
                say(f"of them {training:,} are equal to training images of the victim and {test:,} to its test images")
    about["of_the_victim"] = config.substitute.name == "victim_train"
    return {"substitute": about}


def changed_substitutes(config: RunConfig) -> str | None:
    """What has changed of another data set's files since they were looked at, in words; None if nothing has."""
    if not takes_substitutes(config) or not isinstance(config.substitute, DatasetConfig):
        return None
    with about_substitutes():
        change = change_of(as_substitute(config.substitute))
    return change and f"of substitute={config.substitute.name} {change}"
