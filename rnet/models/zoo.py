"""Architectures by name: rnet's own, a plugin's, torchvision's or timm's, fitted to a dataset's images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rnet.cutting.cuts import usual_cut_layers
from rnet.errors import UserError, unknown_name
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.models.options import NOT_OPTIONS, build_with_options, parse_options
from rnet.models.registry import MODELS
from rnet.models.stem import fit_channels, has_small_stem, shrink_stem
from rnet.rewrites.attention import project_in_place

SOURCES = ("auto", "rnet", "torchvision", "timm")
STEMS = ("auto", "small", "imagenet")
SMALL_IMAGE = 64
"""Up to this size a stem made for 224 pixels leaves too few positions to the layers behind it."""


def build_model(
    config: ModelConfig,
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    mean_C: Sequence[float],
    std_C: Sequence[float],
    seed: int,
) -> Classifier:
    """A freshly initialised classifier of (B, channels, image_size, image_size) pixels, on the CPU, in train mode.

    The same seed gives the same weights; the global random state is not touched. Raises UserError for a configuration
    that names nothing, or a model that cannot take such images.
    """
    if config.stem not in STEMS:
        raise unknown_name("model.stem", config.stem, STEMS)
    source, name = find_architecture(config)
    size = config.input_size or image_size
    taken = _channels_taken(config, channels)
    mean_C, std_C = _normalisation(config, taken, mean_C, std_C)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        backbone = _backbone(source, name, config, num_classes=num_classes, channels=taken, size=size)
        small = config.stem == "small" or (config.stem == "auto" and config.weights is None and size <= SMALL_IMAGE)
        shrunk = small and source != "plugin" and (has_small_stem(backbone) or shrink_stem(backbone))
        if config.stem == "small" and not shrunk:
            raise UserError(f"model.stem='small' is not known for {name}; use model.stem=auto or model.stem=imagenet")
        if source == "torchvision":
            fit_channels(backbone, taken)
        project_in_place(backbone)
        resized = None if size == image_size else size
        cuts = config.cut_layers or usual_cut_layers(backbone)
        about = _about(config, image_size, channels, num_classes, mean_C, std_C, small=isinstance(shrunk, str))
        model = Classifier(backbone, mean_C, std_C, input_size=resized, architecture=name, cut_layers=cuts, about=about)
        for layer in config.cut_layers:
            if layer not in model.layer_names():
                raise unknown_name("model.cut_layers", layer, model.layer_names())
        _check_pass(model, torch.full((1, channels, image_size, image_size), 0.5), num_classes)
    return model


def _about(
    config: ModelConfig, image_size: int, channels: int, classes: int, mean_C: Sequence[float], std_C: Sequence[float],
    *, small: bool
) -> dict[str, Any]:  # fmt: skip
    """What others need to build the same function; no paths, and nothing of the machine."""
    keys = ("name", "source", "width", "patch_size", "input_size", "in_channels", "options", "cut_layers")
    model = {key: getattr(config, key) for key in keys}
    model |= {"stem": "small" if small else "imagenet", "mean": [*mean_C], "std": [*std_C]}
    return {"model": model, "image_size": image_size, "channels": channels, "num_classes": classes}


def first_convolution(config: ModelConfig) -> tuple[str, torch.Size, torch.Size | None] | None:
    """The name of an architecture's first convolution's weights, and their shapes (OIHW): as published, and small.

    The last is None for an architecture with one stem; all is None for one that has no convolution, or that cannot be
    built without more. Nothing is computed.
    """
    source, name = find_architecture(config)
    if source == "plugin":
        return None
    with torch.device("meta"):
        try:
            backbone = _backbone(source, name, config, num_classes=2, channels=3, size=config.input_size or 224)
        except UserError:
            return None
        first = next((name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)), None)
        published = dict(backbone.named_parameters())
        shrunk = shrink_stem(backbone)
    weight = f"{shrunk or first}.weight"
    if weight not in published:
        return None
    return weight, published[weight].shape, backbone.get_parameter(weight).shape if shrunk else None


def _channels_taken(config: ModelConfig, channels: int) -> int:
    """How many channels the network takes of images with so many; gray images are repeated if the user says so."""
    taken = config.in_channels or channels
    if taken == channels or (channels == 1 and taken > 1):
        return taken
    remedy = "set dataset.grayscale=true" if taken == 1 else f"take it out, or set model.in_channels={channels}"
    raise UserError(f"model.in_channels={config.in_channels}, but the images have {channels} channels; {remedy}")


def _normalisation(
    config: ModelConfig, taken: int, mean_C: Sequence[float], std_C: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """The model's own mean and std, or those of the data set, whose one channel may be repeated."""
    if not config.mean:
        return [*mean_C] * (taken // len(mean_C)), [*std_C] * (taken // len(std_C))
    for key, values in (("mean", config.mean), ("std", config.std)):
        if len(values) != taken:
            raise UserError(
                f"model.{key}={values} has {len(values)} values, but the network takes {taken} channels; give {taken}"
            )
    return config.mean, config.std


def find_architecture(config: ModelConfig) -> tuple[str, str]:
    """Whose model it is ("rnet", "plugin", "torchvision" or "timm"), and its name there."""
    if config.source not in SOURCES:
        raise unknown_name("model.source", config.source, SOURCES)
    if ":" in MODELS.full_name(config.name):
        if config.source != "auto":
            raise UserError(f"model.source={config.source!r} has no effect on model={config.name!r}; take it out")
        _refuse_unused(config, "plugin", config.name)
        return "plugin", config.name
    prefix, slash, rest = config.name.partition("/")
    name = rest if slash and prefix in _NAMES else config.name
    source = prefix if slash and prefix in _NAMES else config.source
    if config.source not in ("auto", source):
        raise UserError(f"model.name={config.name!r} contradicts model.source={config.source!r}; set one of them")
    sources = list(_NAMES) if source == "auto" else [source]
    found = next((candidate for candidate in sources if _has(candidate, name)), None)
    if found is None:
        known = {known for candidate in sources for known in _NAMES[candidate]()}
        raise unknown_name("model", config.name, known | {*MODELS.installed()})
    _refuse_unused(config, found, name)
    return found, name


def _refuse_unused(config: ModelConfig, source: str, name: str) -> None:
    if config.width != ModelConfig.width and source != "rnet":
        raise UserError(f"model.width={config.width} has no effect on {name}; it is for {', '.join(MODELS.own())}")
    if config.patch_size is not None and source != "timm":
        raise UserError(f"model.patch_size={config.patch_size} has no effect on {name}; it is for timm's transformers")


def _torchvision_names() -> list[str]:
    from torchvision import models

    return models.list_models(module=models)


def _timm_names() -> list[str]:
    import timm

    return timm.list_models()


_NAMES: dict[str, Callable[[], list[str]]] = {
    "rnet": MODELS.own, "torchvision": _torchvision_names, "timm": _timm_names
}  # fmt: skip


def _has(source: str, name: str) -> bool:
    return name.partition(".")[0] in _NAMES["timm"]() if source == "timm" else name in _NAMES[source]()


def _backbone(source: str, name: str, config: ModelConfig, *, num_classes: int, channels: int, size: int) -> nn.Module:
    """The architecture as its authors made it, but for the number of classes (and of channels, where it can)."""
    options = parse_options(config.options)
    if source in ("rnet", "plugin"):
        return _called(replace(config, name=name), options, num_classes=num_classes, in_channels=channels)
    try:
        if source == "torchvision":
            return _torchvision(name, options, num_classes=num_classes, size=size)
        return _timm(name, options, config.patch_size, num_classes=num_classes, channels=channels, size=size)
    except UserError:
        raise
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"model={name!r} cannot be built for {size}-pixel images: {error}; set model.input_size or model.patch_size"
        ) from error


def _torchvision(name: str, options: dict[str, Any], *, num_classes: int, size: int) -> nn.Module:
    from torchvision import models

    sizes: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if name in ("inception_v3", "googlenet"):
        sizes |= {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        sizes |= {"image_size": size}
    return build_with_options(name, models.get_model_builder(name), options, sizes)


def _timm(
    name: str, options: dict[str, Any], patch_size: int | None, *, num_classes: int, channels: int, size: int
) -> nn.Module:
    import timm

    sizes: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    if patch_size is not None:
        sizes |= {"patch_size": patch_size}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        sizes |= {"img_size": size}
    return build_with_options(name, partial(timm.create_model, name, pretrained=False), options, sizes)


def _called(config: ModelConfig, options: dict[str, Any], **sizes: int) -> nn.Module:
    """What the registered class or function makes of num_classes, in_channels, config if it asks, and the options."""
    MODELS.check_class(config)
    make = MODELS.load(config.name)
    accepted = inspect.signature(make).parameters
    arguments: dict[str, Any] = {**sizes, "config": config} if "config" in accepted else {**sizes}
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        raise UserError(f"model={config.name!r} must accept num_classes and in_channels: {error}") from error
    for name in options:
        if name not in accepted and all(p.kind is not p.VAR_KEYWORD for p in accepted.values()):
            known = [one for one in accepted if one not in NOT_OPTIONS]
            if not known:
                raise UserError(f"model.options: {config.name} has no options, but {name!r} is set; take it out")
            raise unknown_name(f"model.options of {config.name}: option", name, known)
    backbone = make(**arguments, **options)
    if not isinstance(backbone, nn.Module):
        raise UserError(f"model={config.name!r} returned a {type(backbone).__name__}, not a torch.nn.Module")
    return backbone


def _check_pass(model: Classifier, x_BCHW: Tensor, num_classes: int) -> None:
    """One image through the model in eval mode; raises UserError unless logits (1, num_classes) come out."""
    model.eval()
    try:
        with torch.no_grad():
            logits_BK = model(x_BCHW)
    except Exception as error:  # whatever an architecture raises for a size it was not made for
        raise UserError(
            f"model={model.architecture!r} cannot take images of shape {tuple(x_BCHW.shape[1:])}: {error}. "
            "Set model.input_size to a size it was made for (299 for inception_v3, 224 for most others)"
        ) from error
    finally:
        model.train()
    if not isinstance(logits_BK, Tensor) or logits_BK.shape != (len(x_BCHW), num_classes):
        found = tuple(logits_BK.shape) if isinstance(logits_BK, Tensor) else type(logits_BK).__name__
        raise UserError(f"model={model.architecture!r} must return logits (B, {num_classes}) but returned {found}")
