"""Strangers' weights under an architecture's own names: wrappers' prefixes, missing counters, heads that are not used.

Names are changed only where all of them then fit; what was done is said. Shapes are never changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.models.efficientnet_names import timm_names
from rnet.models.weight_limits import all_finite
from rnet.models.weights import Weights, choose_weights, read_weights

WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Names that torch.compile, FSDP and activation checkpointing put anywhere in a parameter's name."""
_COUNTERS = ("num_batches_tracked",)
"""Buffers of batch norm that files older than torch 0.4.1 lack; inference does not read them."""
_NOT_USED = re.compile(r"(^|\.)(AuxLogits|aux1|aux2|aux_classifier|n_averaged|total_ops|total_params)(\.|$)")
"""Heads that only training uses (Inception, GoogLeNet), and counters that tools leave among the weights."""
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")
"""torchvision's published DenseNet files name norm.1 what the architecture has called norm1 since."""


def import_weights(model: Classifier, path: Path | str, key: str | None = None) -> str:
    """Loads a weight file into the model; what was done to its names, for people, empty if nothing.

    key: which set, where the file holds several. Raises UserError for weights that do not fit or are not finite.
    """
    own = model.export_state()
    found = read_weights(path)
    renamed = {name: new for weights in found.values() for name, new in timm_names(weights, own).items()}
    found = {place: {renamed.get(name, name): t for name, t in weights.items()} for place, weights in found.items()}
    sets = {name: part for place, weights in found.items() for name, part in _parts(place, weights, own)}
    fitting = {name: weights for name, weights in sets.items() if _fit(weights, own) is not None}
    weights = choose_weights(sets if key is not None else fitting or sets, path, key)
    fitted = _fit(weights, own)
    state, done = fitted if fitted is not None else (weights, [])
    _check_numbers(state, own, path)
    model.load_exported(state)
    return "; ".join([*done, *["names of EfficientNet-PyTorch turned into timm's"] * bool(renamed)])


def _parts(place: str, weights: Weights, own: Mapping[str, Tensor]) -> list[tuple[str, Weights]]:
    """The weights, or each copy of the model among them by where it stands, such as model and ema_model."""
    prefixes = _prefixes({_plain(name, own): tensor for name, tensor in weights.items()}, _needed(own))
    if len(prefixes) < 2:
        return [(place, weights)]
    parts: dict[str, Weights] = {prefix: {} for prefix in sorted(prefixes)}
    for name, tensor in weights.items():
        longest = max((prefix for prefix in prefixes if _plain(name, own).startswith(prefix)), key=len, default=None)
        if longest is not None:
            parts[longest][name] = tensor
    return [(f"{place}.{prefix}".strip("."), part) for prefix, part in parts.items()]


def _fit(weights: Weights, own: Mapping[str, Tensor]) -> tuple[Weights, list[str]] | None:
    """The weights under the model's names, and what was done; None if no change of names makes all of them fit."""
    plain = {_plain(name, own): tensor for name, tensor in weights.items()}
    if len(plain) < len(weights):
        return None
    prefixes = _prefixes(plain, _needed(own))
    if len(prefixes) != 1:
        return None
    (prefix,) = prefixes
    state = {name.removeprefix(prefix): tensor for name, tensor in plain.items() if name.startswith(prefix)}
    others = [name for name in weights if _plain(name, own).removeprefix(prefix) not in own]
    unknown = [name for name in others if not _NOT_USED.search(name)]
    if unknown:
        return None
    missing = [name for name in own if name not in state]
    done = []
    if prefix:
        done.append(f"prefix {prefix!r} removed")
    if any(_plain(name, own) != name for name in weights):
        done.append("names of wrappers removed")
    if missing:
        done.append(f"{len(missing)} counters of batch norm, which the file lacks, set to 0")
    if others:
        done.append(f"{len(others)} tensors left out that the architecture does not use ({others[0]}, ...)")
    return {name: state[name] if name in state else own[name] for name in own}, done


def _plain(name: str, own: Mapping[str, Tensor]) -> str:
    """The name without wrappers, as the architecture spells it now."""
    if name in own:
        return name
    name = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    return name if name in own else _OLD_DENSENET.sub(r"\1\2", name)


def _needed(own: Mapping[str, Tensor]) -> set[str]:
    return {name for name in own if not name.endswith(_COUNTERS)}


def _prefixes(names: Mapping[str, Tensor], needed: set[str]) -> set[str]:
    """What stands before all of the needed names, in one way or in several; {""} if nothing does."""
    if not needed:
        return {""}
    longest = max(needed, key=lambda name: (name.count("."), len(name)))
    found = {name[: -len(longest)] for name in names if name == longest or name.endswith(f".{longest}")}
    return {prefix for prefix in found if all(f"{prefix}{name}" in names for name in needed)}


def _check_numbers(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path | str) -> None:
    """Raises UserError for weights that torch would convert without a word, and for numbers that no training gives."""
    for name, tensor in state.items():
        if name in own and own[name].is_floating_point() and not tensor.is_floating_point():
            raise UserError(
                f"weight file {path}: {name} is of {str(tensor.dtype).removeprefix('torch.')}, not of floating-point "
                f"numbers; save the model's own state_dict(), before any quantisation"
            )
        if name in own and tensor.is_complex():
            raise UserError(
                f"weight file {path}: {name} is complex; save the real numbers that the model computes with"
            )
        if name.endswith("running_var") and not tensor.is_complex() and tensor.numel() and tensor.min() < 0:
            raise UserError(
                f"weight file {path}: {name} has a negative variance; the file is damaged: take another checkpoint"
            )
        if tensor.is_floating_point() and not all_finite(tensor):
            bad = int((~torch.isfinite(tensor)).sum())
            raise UserError(
                f"weight file {path}: {name} has {bad} of {tensor.numel()} values that are not finite; "
                "the file is damaged, or its training had failed: take another checkpoint"
            )
