"""Architectures by name: rnet's own, a plugin's, torchvision's or timm's, fitted to a dataset's images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rnet.cutting.cuts import usual_cut_layers
from rnet.errors import UserError, unknown_name
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.models.registry import MODELS
from rnet.models.stem import fit_channels, shrink_stem
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
    source, name = _resolve(config)
    size = config.input_size or image_size
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        backbone = _backbone(source, name, config, num_classes=num_classes, channels=channels, size=size)
        small = config.stem == "small" or (config.stem == "auto" and size <= SMALL_IMAGE)
        if small and not (source != "plugin" and shrink_stem(backbone)) and config.stem == "small":
            raise UserError(f"model.stem='small' is not known for {name}; use model.stem=auto or model.stem=imagenet")
        if source == "torchvision":
            fit_channels(backbone, channels)
        project_in_place(backbone)
        resized = None if size == image_size else size
        cuts = config.cut_layers or usual_cut_layers(backbone)
        model = Classifier(backbone, mean_C, std_C, input_size=resized, architecture=name, cut_layers=cuts)
        for layer in config.cut_layers:
            if layer not in model.layer_names():
                raise unknown_name("model.cut_layers", layer, model.layer_names())
        _check_pass(model, torch.full((1, channels, image_size, image_size), 0.5), num_classes)
    return model


def _resolve(config: ModelConfig) -> tuple[str, str]:
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
    if source in ("rnet", "plugin"):
        return _called(replace(config, name=name), num_classes=num_classes, in_channels=channels)
    try:
        if source == "torchvision":
            return _torchvision(name, num_classes=num_classes, size=size)
        return _timm(name, config.patch_size, num_classes=num_classes, channels=channels, size=size)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"model={name!r} cannot be built for {size}-pixel images: {error}; set model.input_size or model.patch_size"
        ) from error


def _torchvision(name: str, *, num_classes: int, size: int) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {}
    if name in ("inception_v3", "googlenet"):
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": size}
    return models.get_model(name, weights=None, num_classes=num_classes, **options)


def _timm(name: str, patch_size: int | None, *, num_classes: int, channels: int, size: int) -> nn.Module:
    import timm

    options: dict[str, Any] = {} if patch_size is None else {"patch_size": patch_size}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        options["img_size"] = size
    return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=channels, **options)


def _called(config: ModelConfig, **sizes: int) -> nn.Module:
    """What the registered class or function makes of num_classes, in_channels and, if it asks for it, config."""
    MODELS.check_class(config)
    make = MODELS.load(config.name)
    asks = "config" in inspect.signature(make).parameters
    arguments: dict[str, Any] = {**sizes, "config": config} if asks else {**sizes}
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        raise UserError(f"model={config.name!r} must accept num_classes and in_channels: {error}") from error
    backbone = make(**arguments)
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
