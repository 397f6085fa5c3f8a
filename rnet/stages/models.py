"""The stages' models: built for a data set, saved in a stage's folder, and loaded from it."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from safetensors.torch import save as safetensors_bytes

from rnet.attacks.base import Attack
from rnet.attacks.imported.attack import Import
from rnet.attacks.imported.origin import as_given
from rnet.attacks.registry import ATTACKS
from rnet.config.run import RunConfig
from rnet.data.images import Dataset
from rnet.data.loading import load_dataset_once
from rnet.engines.choice import resolve_engine
from rnet.errors import UserError
from rnet.models.access import limit_access
from rnet.models.black_box import BlackBox
from rnet.models.class_names import require_same_order
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.models.origin import as_imported, called_classes
from rnet.models.published import METADATA_KEY
from rnet.models.weights import load_weights
from rnet.models.zoo import build_model
from rnet.parallel.collectives import rank, world_size
from rnet.rewrites.memory_format import use_channels_last
from rnet.stages.store import StageFolder
from rnet.storage.files import write_atomic
from rnet.training.finite import Diverged, first_not_finite


def build(config: ModelConfig, dataset: Dataset, seed: int) -> Classifier:
    """A freshly initialised classifier for a dataset. Raises UserError where model.classes contradicts it."""
    names, _, _ = called_classes(config, dataset.num_classes, dataset.class_names)
    if config.classes is not None:
        require_same_order(names, dataset.class_names, config.classes)
    model = build_model(config, **dataset.blueprint, seed=seed)
    if names:
        model.about["class_names"] = names
    return model


def save_model(folder: StageFolder, model: Classifier) -> None:
    """Writes model.safetensors: the backbone's own state dict, so that other tools can load it, and what it is."""
    if rank() > 0:
        return
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.export_state().items()}
    if name := first_not_finite(state.items()):
        raise Diverged(f"{folder.label} ends with a model whose {name} is not finite; it is not kept")
    metadata = {METADATA_KEY: json.dumps(model.about, sort_keys=True)}
    write_atomic(folder.path / "model.safetensors", safetensors_bytes(state, metadata))


def load_model(config: RunConfig, folder: StageFolder) -> Classifier:
    """The finished stage's model, victim or suspect, in eval mode on the CPU.

    Raises UserError if the file is damaged or does not fit, and for a suspect that only answers.
    """
    config = as_imported(config)
    dataset = load_dataset_once(config.dataset)
    if folder.document["stage"] == "attack":
        config = as_given(config)
        if getattr(config.attack, "function", None):
            raise UserError(f"{folder.label} is the black box {config.attack.function}, which has no weights to load")
        model = suspect_blueprint(config, ATTACKS.build(config.attack), dataset, seed=0)
    else:
        model = build(config.model, dataset, seed=0)
    state = load_weights(folder.file("model.safetensors"))
    if name := first_not_finite(state.items()):
        raise UserError(f"the model of {folder.label} is itself not finite ({name}); train or import it again")
    model.load_exported(state)
    use_channels_last(model)
    return model.eval()


def load_suspect(config: RunConfig, folder: StageFolder) -> Classifier | BlackBox:
    """The attack stage's suspect, to be tested: its weights, or the function that answers for it.

    Where its layers are not the victim's it counts as one that shows its logits: neurons cannot be compared.
    """
    config = as_given(config)
    method: Attack = ATTACKS.build(config.attack)
    dataset = load_dataset_once(config.dataset)
    if isinstance(method, Import) and method.config.function:
        known = folder.result() or {}
        return method.black_box(dataset, known["answers"], known["num_classes"])
    model = load_model(config, folder)
    if not is_like_victim(config, method, dataset):
        victim = build(config.model, dataset, seed=0)
        if _shapes(victim) != _shapes(model):
            limits = f"is a {model.architecture} whose layers are not those of the victim, a {victim.architecture}"
            limit_access(model, "logits", limits)
    return model


def is_like_victim(config: RunConfig, method: Attack, dataset: Dataset) -> bool:
    """Whether the suspect is built as the victim is."""
    return method.architecture(config.model) == config.model and method.classes(dataset) == dataset.num_classes


def suspect_blueprint(config: RunConfig, method: Attack, dataset: Dataset, seed: int) -> Classifier:
    """A freshly initialised model of the suspect's architecture."""
    known = replace(dataset, num_classes=method.classes(dataset))
    return build(method.architecture(config.model), known, seed)


def _shapes(model: Classifier) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.export_state().items()}


def frozen_victim(config: RunConfig, victim: Classifier, device: torch.device) -> torch.nn.Module:
    """The victim, frozen and on the device, whole or divided among the processes; what it was before is gone."""
    victim.requires_grad_(False)
    if resolve_engine(config.engine, world_size()).victim == "replica":
        return victim.to(device)
    from rnet.engines.deepspeed import sharded_inference

    return sharded_inference(victim, device)
