"""What a given file of weights is taken for: what the user set, what the file says of itself, else what the victim is.

It is decided before ids are made, as for an imported victim.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

from rnet.attacks.imported.config import ImportConfig
from rnet.config.documents import file_digest
from rnet.config.run import RunConfig
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.models.origin import ASSUMED, Origin, as_imported, model_origin

_OF_THE_VICTIM = ("stem", "options", "mean", "std")
"""Of a model like the victim, what a file may say otherwise. It says nothing of the rest, or the weights do not fit."""
_SHOWN = ("architecture", *_OF_THE_VICTIM, "input size")


def as_given(config: RunConfig) -> RunConfig:
    """The run with the model that its suspect's file is taken for as attack.model; other runs as they are.

    Raises UserError for a file that cannot be read.
    """
    if not isinstance(config.attack, ImportConfig) or config.attack.weights is None:
        return config
    model = replace(suspect_origin(config).model, weights=None, weights_key=None)
    return replace(config, attack=replace(config.attack, model=model))


def suspect_origin(config: RunConfig) -> Origin:
    """Where the settings of the suspect's model come from; what neither the user nor the file says is the victim's."""
    given = config.attack
    file_digest("attack.weights", given.weights)  # says of every path that leads to no file what is wrong with it
    file = {"weights": given.weights, "weights_key": given.weights_key}
    try:
        if given.model is not None:
            return model_origin(replace(given.model, **file), image_size=config.dataset.image_size)
        victim = as_imported(config).model
        unset = {field.name: getattr(ModelConfig(), field.name) for field in fields(ModelConfig)}
        bare = replace(victim, **file, classes=None, **{key: unset[key] for key in _OF_THE_VICTIM})
        found = model_origin(bare, image_size=config.dataset.image_size)
    except UserError as error:
        raise UserError(of_a_suspect(str(error))) from None
    facts, model = dict(found.facts), found.model
    for key in (key for key in _OF_THE_VICTIM if facts[key]["how"] == ASSUMED):
        value = getattr(victim, key)
        model = replace(model, **{key: value})
        facts[key] = {
            "value": None if value == "auto" else value,
            "how": ASSUMED,
            "from": f"the victim's; else model.{key}",
        }
    facts["architecture"] = {"value": victim.name, "how": ASSUMED, "from": "the victim's; else model.name"}
    return replace(found, model=model, facts=facts)


def origin_report(origin: Origin, model: Classifier) -> dict[str, Any]:
    """By subject {"value", "how", "from"}, and "notes", for results and for people."""
    facts = {name: {**origin.facts[name]} for name in _SHOWN}
    for key, buffer in (("mean", model.mean), ("std", model.std)):
        facts[key]["value"] = [round(value, 6) for value in buffer.flatten().tolist()]
    facts["stem"]["value"] = facts["stem"]["value"] or model.about["model"]["stem"]
    for fact in facts.values():
        fact["from"] = of_a_suspect(fact["from"])
    return {**facts, "notes": [of_a_suspect(note) for note in origin.notes]}


def of_a_suspect(text: str) -> str:
    """What an import says of a victim's settings, said of a suspect's."""
    names = "|".join(sorted((field.name for field in fields(ModelConfig)), key=len, reverse=True))

    def setting(match: re.Match[str]) -> str:
        own = match[1].startswith("weights")
        return f"attack.{match[1]}" if own else f"attack.model.{match[1]}"

    return re.sub(rf"(?<![\w./\\-])model\.({names})\b", setting, text)
