"""Pictures of models in a store, side by side: the victim, suspects and an independent model, on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from rnet.config.run import RunConfig
from rnet.data.loading import load_dataset_once
from rnet.defenses.fingerprint_file import load_fingerprint
from rnet.errors import UserError, first_line
from rnet.figures.drawing import Drawing
from rnet.figures.models import SideBySide
from rnet.figures.queries import queries
from rnet.figures.together import on_samples, pictures
from rnet.models.black_box import BlackBox
from rnet.models.classifier import Classifier
from rnet.parallel.collectives import world_size
from rnet.stages.graph import document, negative_configs
from rnet.stages.models import load_model, load_suspect
from rnet.stages.store import Store
from rnet.storage.json_files import read_information
from rnet.training.loop import resolve_device

MOST_SUSPECTS = 4


def pictures_of(suspects: Mapping[str, RunConfig], store: Store) -> tuple[list[Drawing], str]:
    """Pictures of the first victim, of these suspects of it by name, and of its first negative; and what is left out.

    Stages that are not finished are missing from the pictures, which say so; nothing is computed for them.
    """
    if not suspects:
        return [], ""
    if world_size() > 1:
        return [], "Pictures are drawn by one process alone: run the command again without a launcher."
    config = next(iter(suspects.values()))
    victim_id = store.folder(document("train", config)).id
    same = {name: one for name, one in suspects.items() if store.folder(document("train", one)).id == victim_id}
    shown = dict(list(same.items())[:MOST_SUSPECTS])
    if not any(one.attack.name == "independent" for one in shown.values()):
        shown |= dict(zip(["independent"], negative_configs(config), strict=False))
    device = resolve_device(config.engine.device)
    dataset = load_dataset_once(config.dataset)
    models: dict[str, nn.Module | str] = {"victim": _victim(config, store, device)}
    models |= {name: _suspect(one, store, device) for name, one in shown.items()}
    victim = models["victim"]
    layer = victim.cut_layer if isinstance(victim, Classifier) else None
    few = on_samples(models, dataset, device)
    found, why = pictures(few, dataset, layer)
    said = [why] if why else []
    found += _queries(config, store, few, device)
    left = len(same) - MOST_SUSPECTS
    said += [f"{left} more suspects are not in these pictures."] if left > 0 else []
    return found, " ".join(said)


def _victim(config: RunConfig, store: Store, device: torch.device) -> nn.Module | str:
    folder = store.folder(document("train", config))
    if folder.result() is None:
        return _state(folder.path)
    return load_model(config, folder).to(device)


def _suspect(config: RunConfig, store: Store, device: torch.device) -> nn.Module | str:
    try:
        folder = store.folder(document("attack", config))
        if (result := folder.result()) is None:
            return _state(folder.path)
        if "not_measured" in result:
            return str(result["not_measured"])
        model = load_suspect(config, folder)
    except UserError as error:
        return first_line(error)
    return "it only answers, and has no gradients" if isinstance(model, BlackBox) else model.to(device)


def _queries(config: RunConfig, store: Store, beside: SideBySide, device: torch.device) -> list[Drawing]:
    """Of the defence's fingerprint, where that is images with labels."""
    folder = store.folder(document("fingerprint", config))
    if folder.result() is None:
        return []
    made = load_fingerprint(folder.path, victim_id=store.folder(document("train", config)).id)
    if not {"queries_NCHW", "labels_N"} <= made.tensors.keys():
        return []
    images_NCHW, labels_N = made.tensors["queries_NCHW"].to(device), made.tensors["labels_N"]
    title = f"The queries of {config.defense.name}, and what the models answer"
    return [queries("queries", title, beside, images_NCHW, labels_N)]


def _state(folder: Path) -> str:
    return str(read_information(folder / "status.json").get("state", "not computed"))
