"""Pictures of a suspect beside its victim, for TensorBoard, when its attack stage ends."""

from __future__ import annotations

import json
from typing import Any

import torch

from rnet.data.images import Dataset
from rnet.errors import UserError
from rnet.figures.drawing import Drawing
from rnet.figures.embedding import embedding
from rnet.figures.models import SideBySide, first_of_each_class
from rnet.figures.planes import planes
from rnet.figures.saliency import saliency
from rnet.models.classifier import Classifier
from rnet.rewrites.modes import device_of, frozen_eval
from rnet.stages.store import StageFolder
from rnet.training.loop import Run

SAMPLES, EMBEDDED = 4, 200


def show_suspect(run: Run, folder: StageFolder, victim: Classifier, suspect: Classifier, dataset: Dataset) -> None:
    """Adds pictures/saliency, pictures/planes and pictures/embedding to the stage's curves, at its last step.

    Called by one process, after the suspect was saved: nothing here changes it, and nothing is drawn at random.
    """
    device = device_of(suspect)
    models: dict[str, Any] = {"victim": victim.to(device), "suspect": suspect}
    with frozen_eval(suspect):
        try:
            drawn = _drawings(models, dataset, device, victim.cut_layer)
        except UserError as error:
            run.say(f"no pictures: {error}")
            return
    _write(folder, drawn, _last_step(folder))


def _drawings(
    models: dict[str, Any], dataset: Dataset, device: torch.device, layer: str | None
) -> list[Drawing]:  # fmt: skip
    def beside(indices_B: torch.Tensor) -> SideBySide:
        return SideBySide(
            models=models, images_BCHW=dataset.test.pixels(indices_B, device),
            labels_B=dataset.test.labels_N[indices_B], class_names=dataset.class_names,
        )  # fmt: skip

    few = beside(first_of_each_class(dataset.test.labels_N, SAMPLES))
    found = [
        saliency("saliency", "Where the models look", few),
        planes("planes", "Decision boundaries on one plane", few),
    ]
    if layer is not None:
        many = beside(torch.arange(min(EMBEDDED, len(dataset.test))))
        found.append(embedding("embedding", "Latents at the cut", many, layer))
    return found


def _write(folder: StageFolder, drawn: list[Drawing], step: int) -> None:
    """In an event file of their own: the curves' is closed by now, and TensorBoard reads one after the other."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder.path / "tensorboard"), filename_suffix=".pictures") as writer:
        for one in drawn:
            writer.add_figure(f"pictures/{one.name}", one.figure, step, close=False)


def _last_step(folder: StageFolder) -> int:
    """Of the log, 0 where nothing was trained."""
    try:
        return int(json.loads((folder.path / "log.jsonl").read_bytes().splitlines()[-1])["step"])
    except (OSError, ValueError, KeyError, IndexError):
        return 0
