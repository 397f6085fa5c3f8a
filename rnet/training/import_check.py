"""Is an imported network the function that its owner trained? What the user's own labelled images say.

Nothing here is random but the choice of images, which the data set's split has made: the same import, the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from rnet.data.images import Dataset, Part
from rnet.models.classifier import Classifier
from rnet.training.alternatives import clearly_better, flops_of
from rnet.training.class_order import class_names
from rnet.training.mending import FEWEST_IMAGES, mended, percent
from rnet.training.reference import reference_predictions

FLOPS = 1e12
"""What the check may cost in all, about: half a minute to a minute of two cores."""
MOST_IMAGES = 1000
"""Images that each part of the check looks at, at most."""
MARGIN = 0.03
"""Gain in accuracy by which another setting is worth a word, where nobody has said how the network was trained."""
MARGIN_KNOWN = 0.06
"""... and where the user or the file has said it."""
FAR_BELOW = 0.20
"""Distance to a simple classifier of the same images from which a network is doubted."""


def check_import(
    model: Classifier,
    dataset: Dataset,
    predicted_N: Tensor,
    *,
    other_stem: Classifier | None,
    normalisation_known: bool,
) -> dict[str, Any]:
    """{"images", "warnings", "notes", and what they rest on}: accuracy against what else could be.

    predicted_N: the network's classes of all test images. other_stem: the same weights behind the other stem, where the
    file does not say which. normalisation_known: mean and std were given or read.
    """
    labels_N = dataset.test.labels_N
    found: dict[str, Any] = {"images": len(labels_N), "warnings": [], "notes": []}
    names = class_names(dataset)
    found |= _per_class(labels_N, predicted_N, names)
    found["notes"] += _absent_classes(dataset, predicted_N, names)
    if len(labels_N) > 1 and len(predicted_N.unique()) == 1:
        found["warnings"].append(
            f"the network gives every test image class {names[int(predicted_N[0])]}: are these its weights?"
        )
    count = _affordable(model, dataset.test)
    test, train = (part.subset(torch.arange(min(count, len(part)))) for part in (dataset.test, dataset.train))
    if len(test) < FEWEST_IMAGES:
        found["notes"].append(f"{len(test)} test images are few: only gross faults would show")
    found["compared_on"] = len(test)
    right_N = predicted_N[: len(test)] == test.labels_N
    references = reference_predictions(model, train, test)
    by, theirs_N = max(references.items(), key=lambda item: float((item[1] == test.labels_N).float().mean()))
    share = float((theirs_N == test.labels_N).float().mean())
    how = f"a linear classifier of {by}, trained on {len(train)} images"
    found["reference"] = {"accuracy": share, "by": how}
    margin = MARGIN_KNOWN if normalisation_known else MARGIN
    better = mended(model, other_stem, dataset, train, test, margin=margin, reference=share)
    if better is not None:
        found["warnings"].append(better.pop("warning"))
        found["would_be"] = better
    elif clearly_better(theirs_N == test.labels_N, right_N, FAR_BELOW):
        found["warnings"].append(
            f"accuracy {percent(right_N)} is far below the {100 * share:.1f} % of {how}: is it the network for these "
            f"images, fed as its owner did (model.mean, model.std, model.options, dataset.resize)?"
        )
    return found


def _per_class(labels_N: Tensor, predicted_N: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """{"per_class": [{"class", "recall", "images"}, ...]} of the classes that differ from the others beyond chance."""
    right_N = predicted_N == labels_N
    accuracy = float(right_N.double().mean())
    rows = []
    for number in labels_N.unique().tolist():
        of_class = right_N[labels_N == number]
        hits, images = int(of_class.sum()), len(of_class)
        uneven = abs(hits / images - accuracy) > 0.1
        if uneven and binomtest(hits, images, accuracy).pvalue < 1e-3 / len(names):
            rows.append({"class": names[number], "recall": hits / images, "images": images})
    return {"per_class": sorted(rows, key=lambda row: (row["recall"], row["class"]))} if rows else {}


def _absent_classes(dataset: Dataset, predicted_N: Tensor, names: Sequence[str]) -> list[str]:
    """Classes of which there are no images, and those that the network never gives."""
    present = dataset.test.labels_N.unique().tolist()
    never = sorted({*present} - {*predicted_N.tolist()})
    missing = sorted({*range(dataset.num_classes)} - {*present})
    notes = []
    if missing:
        notes.append(f"{len(missing)} of {dataset.num_classes} classes have no test image: {_listed(missing, names)}")
    if never:
        notes.append(f"{len(never)} of {dataset.num_classes} classes are never predicted: {_listed(never, names)}")
    return notes


def _affordable(model: Classifier, test: Part) -> int:
    """How many images the check looks at, in each of its about ten passes."""
    return int(min(MOST_IMAGES, max(FEWEST_IMAGES, FLOPS / (10 * flops_of(model, test)))))


def _listed(numbers: Sequence[int], names: Sequence[str]) -> str:
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return ", ".join(names[number] for number in numbers[:8]) + more
