"""Is an imported network the function that its owner trained? What the user's own labelled images say.

Nothing here is random but the choice of images, which the data set's split has made: the same import, the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from rnet.data.images import Dataset, Part
from rnet.models.classifier import Classifier
from rnet.training.alternatives import Alternative, alternatives, clearly_better, flops_of, logits_of
from rnet.training.class_order import accuracy_renamed, class_map, class_names, order_remedy
from rnet.training.reference import reference_predictions

FLOPS = 1.5e12
"""What the check may cost in all, about: half a minute to a minute of two cores."""
MOST_IMAGES, FEWEST_IMAGES, FIRST_IMAGES = 2000, 100, 200
"""Images that each part of the check looks at, and at most the first round of alternatives."""
MARGIN = 0.03
"""Gain in accuracy by which another setting is worth a word, where nobody has said how the network was trained."""
MARGIN_KNOWN = 0.06
"""... and where the user or the file has said it."""
FAR_BELOW = 0.15
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
    mended = _mended(model, other_stem, dataset, train, test, MARGIN_KNOWN if normalisation_known else MARGIN)
    if mended is not None:
        found["warnings"].append(mended.pop("warning"))
        found["would_be"] = mended
    references = reference_predictions(model, train, test)
    if references:
        by, theirs_N = max(references.items(), key=lambda item: float((item[1] == test.labels_N).float().mean()))
        share = float((theirs_N == test.labels_N).float().mean())
        how = f"a linear classifier of {by}, trained on {len(train)} images"
        found["reference"] = {"accuracy": share, "by": how}
        if clearly_better(theirs_N == test.labels_N, right_N, FAR_BELOW) and mended is None:
            found["warnings"].append(
                f"accuracy {_percent(right_N)} is far below the {100 * share:.1f} % of {how}: is it the network for "
                f"these images, fed as its owner did (model.mean, model.std, model.options, dataset.resize)?"
            )
    return found


def _mended(
    model: Classifier, other_stem: Classifier | None, dataset: Dataset, train: Part, test: Part, margin: float
) -> dict[str, Any] | None:
    """What change of settings would clearly raise the accuracy: {"accuracy", "warning", ...}; None if none would."""
    statistics = (dataset.mean_C, dataset.std_C)
    ways = alternatives(model, other_stem, statistics, colour=_has_colour(test))
    first = test.subset(torch.arange(min(len(test), FIRST_IMAGES, max(FEWEST_IMAGES, len(test) // 3))))
    logits = dict(zip(ways, logits_of(ways, first), strict=True))
    asis = ways[0]
    plain = {way: _accuracy(one, first.labels_N) for way, one in logits.items()}
    worth = {way: max(plain[way], accuracy_renamed(one, first.labels_N)) for way, one in logits.items()}
    gains = {way: max(worth[way] - worth[asis], plain[way] - plain[asis]) for way in ways[1:]}
    promising = [way for way in ways[1:] if gains[way] > margin / 3]
    kept = [asis, *sorted(promising, key=lambda way: -worth[way])[:6]]
    if len(test) > len(first):
        rest = logits_of(kept, test.subset(torch.arange(len(first), len(test))))
        logits = {way: torch.cat([logits[way], more]) for way, more in zip(kept, rest, strict=True)}
    labels_N = test.labels_N
    right = {(way, False): logits[way].argmax(1) == labels_N for way in kept}
    maps = {}
    for way, train_logits in zip(kept, logits_of(kept, train), strict=True):
        maps[way] = class_map(train_logits.argmax(1), train.labels_N, dataset)
        right[way, True] = logits[way].argmax(1) == maps[way][labels_N]
    chosen = _fewest_changes(right, logits, labels_N, asis, margin)
    if chosen is None:
        return None
    way, permuted = chosen
    before, after = right[asis, False], right[way, permuted]
    remedies = [way.remedy] if way.remedy else []
    changes = [*sorted(way.changes), *(["order of classes"] if permuted else [])]
    found: dict[str, Any] = {"accuracy": float(after.float().mean()), "changes": changes}
    if permuted:
        how, mapping = order_remedy(maps[way], dataset, logits[way].argmax(1), labels_N)
        remedies.append(how)
        found["class_map"] = mapping
    found["warning"] = (
        f"accuracy {_percent(before)} on {len(test)} images would be {_percent(after)} with another "
        f"{' and another '.join(changes)}; if the network was trained so: {'; '.join(remedies)}"
    )
    return found


def _fewest_changes(
    right: Mapping[tuple[Alternative, bool], Tensor], logits: Mapping[Alternative, Tensor], labels_N: Tensor,
    asis: Alternative, margin: float,
) -> tuple[Alternative, bool] | None:  # fmt: skip
    """The best with one change, if it is clearly better than none, unless one with more is clearly better than that."""
    chosen, mark = None, right[asis, False]
    for number in (1, 2, 3):
        options = [key for key in right if len(key[0].changes) + key[1] == number]
        if not options:
            continue
        top = max(float(right[key].float().mean()) for key in options)
        close = [key for key in options if float(right[key].float().mean()) >= top - 0.01]
        best = min(close, key=lambda key: (key[1], _loss(logits[key[0]], labels_N) if not key[1] else -top))
        if clearly_better(right[best], mark, margin):
            chosen, mark = best, right[best]
    return chosen


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


def _accuracy(logits_NK: Tensor, labels_N: Tensor) -> float:
    return float((logits_NK.argmax(1) == labels_N).float().mean())


def _loss(logits_NK: Tensor, labels_N: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits_NK, labels_N))


def _has_colour(part: Part) -> bool:
    """Whether red and blue differ in any of the first images."""
    x_BCHW = part.fetch(torch.arange(min(64, len(part))))
    return x_BCHW.shape[1] == 3 and not torch.equal(x_BCHW[:, 0], x_BCHW[:, 2])


def _listed(numbers: Sequence[int], names: Sequence[str]) -> str:
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return ", ".join(names[number] for number in numbers[:8]) + more


def _percent(right_N: Tensor) -> str:
    return f"{100 * float(right_N.double().mean()):.1f} %"
