"""The pictures of models side by side for which test images suffice: what they look at, boundaries, latents."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.errors import UserError
from rnet.figures.drawing import Drawing
from rnet.figures.embedding import embedding
from rnet.figures.models import SideBySide, first_of_each_class
from rnet.figures.planes import planes
from rnet.figures.saliency import saliency
from rnet.models.class_names import plain_names

SAMPLES, EMBEDDED = 4, 200


def on_samples(models: Mapping[str, nn.Module | str], dataset: Dataset, device: torch.device) -> SideBySide:
    """The models, as SideBySide has them, before SAMPLES fixed test images."""
    return _beside(models, dataset, device, first_of_each_class(dataset.test.labels_N, SAMPLES))


def pictures(few: SideBySide, dataset: Dataset, layer: str | None) -> tuple[list[Drawing], str]:
    """The pictures, and why one is not there, "" where all are.

    few: the models, before the samples. layer: where latents are compared, None for nowhere.
    """
    found: list[Drawing] = []
    said = ""
    try:
        found.append(saliency("saliency", "Where the models look", few))
    except UserError as error:
        said = str(error)
    found.append(planes("planes", "Decision boundaries on one plane", few))
    if layer is not None:
        embedded = torch.arange(min(EMBEDDED, len(dataset.test)))
        many = _beside(few.models, dataset, few.images_BCHW.device, embedded)
        found.append(embedding("embedding", "Latents at the cut", many, layer))
    return found, said


def _beside(
    models: Mapping[str, nn.Module | str], dataset: Dataset, device: torch.device, indices_B: Tensor
) -> SideBySide:
    return SideBySide(
        models=models, images_BCHW=dataset.test.pixels(indices_B, device), labels_B=dataset.test.labels_N[indices_B],
        class_names=plain_names(dataset.class_names),
    )  # fmt: skip
