"""What a victim from a file is: what the user set, what the file and its publisher say, and what is left to assume.

It is decided once, before ids are made, so that the victim, what is derived from it and its negatives are built alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rnet.config.run import RunConfig
from rnet.data.config import DatasetConfig
from rnet.errors import UserError
from rnet.models.class_names import given_names
from rnet.models.config import ModelConfig
from rnet.models.importing import WRAPPERS
from rnet.models.options import parse_options
from rnet.models.published import Published, find_published
from rnet.models.weights import Weights, read_file
from rnet.models.zoo import find_architecture, first_convolution

GIVEN, READ, ASSUMED = "given", "read", "assumed"
"""By the user; in the file or about it; by neither."""

ORDER = (
    *("architecture", "stem", "options", "mean", "std", "resize", "crop", "interpolation", "input size"),
    *("class names", "class order", "names changed"),
)
"""What is said of an imported model, as people read it."""

Fact = dict[str, Any]
"""{"value", "how": given, read or assumed, "from": where}: what is shown of a victim at its import."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """An imported model as it is taken. facts: by what is asked of it. notes: sentences on contradictions and the like.

    dataset: with what is published of resizing. fits_both_stems: the shapes do not say which stem it was trained with.
    """

    model: ModelConfig
    dataset: DatasetConfig | None = None
    facts: dict[str, Fact]
    notes: list[str] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    fits_both_stems: bool = False


_known: dict[str, Origin] = {}
"""By what they depend on: of models, and of runs."""
_published: dict[str, list[Published]] = {}
"""By architecture and file."""


def as_imported(config: RunConfig) -> RunConfig:
    """The run with what is known of its victim's file in its settings; a run that trains its victim as it is.

    Raises UserError for a file that cannot be read.
    """
    if config.model.weights is None:
        return config
    origin = origin_of(config)
    assert origin.dataset is not None
    return replace(config, model=origin.model, dataset=origin.dataset)


def origin_of(config: RunConfig) -> Origin:
    """Where the settings of a run with imported weights come from; of as_imported(config) in a process the same.

    The file is read once while it does not change. Raises UserError for one that cannot be read.
    """
    key = f"{config.dataset} {_key(config.model)}"
    if key not in _known:
        origin = model_origin(config.model, image_size=config.dataset.image_size)
        dataset, facts, notes = _preprocessing(config.dataset, origin.published)
        found = replace(
            origin, dataset=dataset, facts=_in_order({**origin.facts, **facts}), notes=[*origin.notes, *notes]
        )
        _known[key] = _known[f"{dataset} {_key(found.model)}"] = found
    return _known[key]


def model_origin(model: ModelConfig, *, image_size: int) -> Origin:
    """A model with weights as it is taken. image_size: of the data set, 0 for its own. Raises UserError (origin_of)."""
    key = f"{image_size} {_key(model)}"
    if key not in _known:
        _known[key] = _found_out(model, image_size)
    return _known[key]


def called_classes(model: ModelConfig, num_classes: int, dataset_names: Sequence[str]) -> tuple[list[str], str, str]:
    """What so many classes of a model are called, how that is known, and where from; no names where nobody says them.

    The user says it, else the first that knows the file of its weights and names so many, else the data set. Raises
    UserError for a file of names that cannot be read, or names another number.
    """
    if model.classes is not None:
        return given_names(model.classes, num_classes), GIVEN, f"model.classes={model.classes}"
    for one in _published_of(model) if model.weights is not None else []:
        if len(one.class_names) == num_classes:
            return one.class_names, READ, one.where
    ours = list(dataset_names) if len(dataset_names) == num_classes else []
    return ours, ASSUMED, "the data set's; else model.classes"


def _published_of(model: ModelConfig) -> list[Published]:
    key = _key_of_file(model)
    if key not in _published:
        model_origin(model, image_size=0)
    return _published[key]


def _found_out(model: ModelConfig, image_size: int) -> Origin:
    model.check()
    assert model.weights is not None
    path = Path(model.weights).expanduser()
    source, name = find_architecture(model)
    file = read_file(path)
    published = find_published(source, name, path, file.about)
    _published[_key_of_file(model)] = published
    facts: dict[str, Fact] = {"architecture": _fact(model.name, GIVEN, "model.name")}
    notes = _other_architectures(name, published)
    model = replace(model, options=_options(model, published, facts, notes))
    first = first_convolution(model)
    shapes = [shape for one in file.sets.values() if first and (shape := _shape_of(first[0], one)) is not None]
    model, both = _stem(model, first, shapes, published, facts, notes)
    model = _normalisation(model, {shape[1] for shape in shapes if len(shape) == 4}, published, facts, notes)
    for key in ("cut_layers", "input_size", "in_channels"):
        said = next((value for one in published if (value := getattr(one, key))), None)
        if said and not getattr(model, key):
            model = replace(model, **{key: said})
    facts["input size"], note = _input_size(model, image_size, published)
    return Origin(model=model, facts=facts, notes=[*notes, *note], published=published, fits_both_stems=both)


def _key(model: ModelConfig) -> str:
    return repr((model, _files(model)))


def _key_of_file(model: ModelConfig) -> str:
    return repr((model.name, model.source, _files(model)))


def _files(model: ModelConfig) -> tuple[Path, list[tuple[int, int]]]:
    """The model's file, by size and time of change, and timm's config.json beside it."""
    path = Path(model.weights or "").expanduser()
    beside = path.with_name("config.json")
    try:
        if path.is_dir():
            raise UserError(f"model.weights={model.weights!r} is a folder; name the file of weights in it")
        about = [file.stat() for file in (path, beside) if file == path or file.is_file()]
    except OSError as error:
        raise UserError(f"model.weights={model.weights!r}: {error.strerror}; name a file") from None
    return path.absolute(), [(one.st_size, one.st_mtime_ns) for one in about]


def _input_size(model: ModelConfig, image_size: int, published: Sequence[Published]) -> tuple[Fact, list[str]]:
    """The side of the images that the network is fed, and a note where it was made for another."""
    said = next((one for one in published if one.size or one.image_size), None)
    where = "model.input_size" if model.input_size else "dataset.image_size"
    size = model.input_size or image_size
    fact = _fact(size or "the images' own", GIVEN, where)
    if said is None:
        return fact, []
    ours, theirs = (image_size, said.image_size) if said.image_size else (size, said.size)
    if ours in (0, theirs):
        return fact, []
    note = f"input size: images of {ours} pixels; {said.where} says {theirs}, which dataset.image_size={theirs} gives"
    return fact, [note]


def _fact(value: Any, how: str, where: str) -> Fact:
    return {"value": value, "how": how, "from": where}


def _other_architectures(name: str, published: Sequence[Published]) -> list[str]:
    base = name.partition(".")[0]
    return [
        f"architecture: model.name={name} is used; {one.where} says {one.architecture}"
        for one in published
        if one.architecture and one.architecture.partition("/")[2 * ("/" in one.architecture)].partition(".")[0] != base
    ]


def _options(model: ModelConfig, published: Sequence[Published], facts: dict[str, Fact], notes: list[str]) -> list[str]:
    """The user's options, and those of what is published that he has not set."""
    given = parse_options(model.options)
    found, wheres = list(model.options), ["model.options"] if given else []
    for one in published:
        for line in one.options:
            (said,) = parse_options([line]).items()
            if said[0] not in parse_options(found):
                found.append(line)
                wheres.append(one.where)
            elif said[0] in given and given[said[0]] != said[1]:
                notes.append(f"options: {said[0]}={given[said[0]]!r} as you set it; {one.where} says {line}")
    how = GIVEN if given else READ if found else ASSUMED
    facts["options"] = _fact(found, how, ", ".join(dict.fromkeys(wheres)) or "the architecture's defaults")
    return found


def _stem(
    model: ModelConfig,
    first: tuple[str, torch.Size, torch.Size | None] | None,
    shapes: Sequence[torch.Size],
    published: Sequence[Published],
    facts: dict[str, Fact],
    notes: list[str],
) -> tuple[ModelConfig, bool]:
    """The model with its stem named, where the architecture has two, and whether the shapes in the file fit both.

    first: as of first_convolution. shapes: of its weights in the file.
    """
    if first is None or (small := first[2]) is None:
        facts["stem"] = _fact("as published", READ, "the architecture, which has one")
        return model, False
    weight, imagenet, _ = first
    fits = {tuple(shape[2:]) for shape in shapes}
    both = imagenet == small
    said = next((one for one in published if one.stem), None)
    if model.stem != "auto":
        facts["stem"] = _fact(model.stem, GIVEN, "model.stem")
        if said is not None and said.stem != model.stem:
            notes.append(f"stem: model.stem={model.stem} as you set it; {said.where} says {said.stem}")
    elif said is not None:
        facts["stem"] = _fact(said.stem, READ, said.where)
    elif both:
        where = "the file fits both, and this is the published one; for the other set model.stem=small"
        facts["stem"] = _fact("imagenet", ASSUMED, where)
    else:
        fitting = "small" if fits == {tuple(small[2:])} else "imagenet"
        how = READ if fits in ({tuple(small[2:])}, {tuple(imagenet[2:])}) else ASSUMED
        facts["stem"] = _fact(fitting, how, f"the shape of {weight}")
    return replace(model, stem=facts["stem"]["value"]), both


def _shape_of(weight: str, tensors: Weights) -> torch.Size | None:
    """The shape of the tensor of that name, whatever wrappers have put before it."""
    plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in tensors}
    found = [name for name in plain if name == weight or name.endswith(f".{weight}")]
    return tensors[plain[min(found, key=len)]].shape if found else None


def _normalisation(
    model: ModelConfig, channels: set[int], published: Sequence[Published], facts: dict[str, Fact], notes: list[str]
) -> ModelConfig:
    said = next((one for one in published if one.mean), None)
    if said is not None and channels and len(said.mean) not in channels:
        numbers = " or ".join(map(str, sorted(channels)))
        notes.append(f"mean, std: {said.where} says {said.mean}, {said.std}, but the network takes {numbers} channels")
        said = None
    for key in ("mean", "std"):
        values = getattr(model, key)
        if values:
            facts[key] = _fact(values, GIVEN, f"model.{key}")
            if said is not None and not _close(values, getattr(said, key)):
                notes.append(f"{key}: model.{key}={values} as you set it; {said.where} says {getattr(said, key)}")
        elif said is not None:
            facts[key] = _fact(getattr(said, key), READ, said.where)
        else:
            facts[key] = _fact(None, ASSUMED, f"the data set's own; set model.{key} if it was trained with another")
    if said is None or model.mean:
        return model
    return replace(model, mean=said.mean, std=said.std)


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) < 0.002 for x, y in zip(a, b, strict=True))


def _preprocessing(
    dataset: DatasetConfig, published: Sequence[Published]
) -> tuple[DatasetConfig, dict[str, Fact], list[str]]:
    """The data set with what is published of resizing, where the user has not set it."""
    notes: list[str] = []
    said: dict[str, tuple[Any, str]] = {}
    for one in reversed(published):
        if (side := one.resize_for(dataset.image_size)) is not None:
            said["resize"] = side, one.where
        if one.interpolation:
            said["interpolation"] = one.interpolation, one.where
    size = dataset.image_size
    facts = {"crop": _fact(size, GIVEN, "dataset.image_size, the middle")}
    for key, usual in (("resize", size), ("interpolation", "bilinear")):
        value = getattr(dataset, key)
        if value is not None:
            facts[key] = _fact(value, GIVEN, f"dataset.{key}")
            if key in said and said[key][0] != value:
                notes.append(f"{key}: dataset.{key}={value} as you set it; {said[key][1]} says {said[key][0]}")
        elif key in said:
            facts[key] = _fact(said[key][0], READ, said[key][1])
            dataset = replace(dataset, **{key: said[key][0]})
        else:
            facts[key] = _fact(usual, ASSUMED, f"rnet's own; set dataset.{key} if it was trained with another")
    return dataset, facts, notes


def _in_order(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """As people read them."""
    return {name: facts[name] for name in ORDER if name in facts}
