"""Pictures of a suspect beside its victim, for TensorBoard, when its attack stage ends."""

from __future__ import annotations

from typing import Any

from rnet.data.images import Dataset
from rnet.figures.drawing import Drawing
from rnet.figures.together import on_samples, pictures
from rnet.models.classifier import Classifier
from rnet.rewrites.modes import device_of, frozen_eval
from rnet.stages.store import StageFolder
from rnet.storage.json_files import read_log
from rnet.training.loop import Run


def show_suspect(run: Run, folder: StageFolder, victim: Classifier, suspect: Classifier, dataset: Dataset) -> None:
    """Adds pictures/saliency, pictures/planes and pictures/embedding to the stage's curves, at its last step.

    Called by one process, after the suspect was saved: nothing here changes it, and nothing is drawn at random.
    """
    device = device_of(suspect)
    models: dict[str, Any] = {"victim": victim.to(device), "suspect": suspect}
    with frozen_eval(suspect):
        drawn, why = pictures(on_samples(models, dataset, device), dataset, victim.cut_layer)
    if why:
        run.say(why)
    log = read_log(folder.path / "log.jsonl")
    _write(folder, drawn, log[-1]["step"] if log else 0)  # 0 where nothing was trained


def _write(folder: StageFolder, drawn: list[Drawing], step: int) -> None:
    """In an event file of their own: the curves' is closed by now, and TensorBoard reads one after the other."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder.path / "tensorboard"), filename_suffix=".pictures") as writer:
        for one in drawn:
            writer.add_figure(f"pictures/{one.name}", one.figure, step, close=False)
