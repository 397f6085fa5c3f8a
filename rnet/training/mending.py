"""Which change of settings would make an imported network right: the fewest changes that the images bear out.

Shapes: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rnet.data.images import Dataset, Part
from rnet.models.classifier import Classifier
from rnet.training.alternatives import Alternative, alternatives, clearly_better, logits_of
from rnet.training.class_order import accuracy_renamed, class_map, order_remedy

FEWEST_IMAGES, FIRST_IMAGES, SECOND_ROUND = 100, 150, 4
"""Images of the first round, which looks at all alternatives, at least and at most; alternatives of the second."""


def mended(
    model: Classifier, other_stem: Classifier | None, dataset: Dataset, train: Part, test: Part, *,
    margin: float, reference: float,
) -> dict[str, Any] | None:  # fmt: skip
    """What change of settings would raise the accuracy: {"accuracy", "changes", "class_map", "warning"}, or None.

    margin: the least gain that counts, beyond chance. reference: the accuracy that a little training gives. A change
    that leaves the network nearer to guessing than to that explains nothing, and is not named.
    """
    statistics = (dataset.mean_C, dataset.std_C)
    ways = alternatives(model, other_stem, statistics, colour=_has_colour(test))
    first = test.subset(torch.arange(min(len(test), FIRST_IMAGES, max(FEWEST_IMAGES, len(test) // 3))))
    logits = dict(zip(ways, logits_of(ways, first), strict=True))
    asis = ways[0]
    plain = {way: _accuracy(one, first.labels_N) for way, one in logits.items()}
    worth = {way: max(plain[way], accuracy_renamed(one, first.labels_N)) for way, one in logits.items()}
    gains = {way: max(worth[way] - worth[asis], plain[way] - plain[asis]) for way in ways[1:]}
    promising = [way for way in ways[1:] if gains[way] > margin / 3]
    kept = [asis, *sorted(promising, key=lambda way: -gains[way])[:SECOND_ROUND]]
    if len(test) > len(first):
        rest = logits_of(kept, test.subset(torch.arange(len(first), len(test))))
        logits = {way: torch.cat([logits[way], more]) for way, more in zip(kept, rest, strict=True)}
    labels_N = test.labels_N
    right = {(way, False): logits[way].argmax(1) == labels_N for way in kept}
    maps = {}
    for way, train_logits in zip(kept, logits_of(kept, train), strict=True):
        maps[way] = class_map(train_logits.argmax(1), train.labels_N, dataset)
        right[way, True] = logits[way].argmax(1) == maps[way][labels_N]
    guessing = float(torch.bincount(labels_N).max()) / len(labels_N)
    needed = (guessing + reference) / 2
    chosen = _fewest_changes(right, logits, labels_N, asis, margin, needed)
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
        f"accuracy {percent(before)} on {len(test)} images would be {percent(after)} with another "
        f"{' and another '.join(changes)}; if the network was trained so: {'; '.join(remedies)}"
    )
    return found


def _fewest_changes(
    right: Mapping[tuple[Alternative, bool], Tensor], logits: Mapping[Alternative, Tensor], labels_N: Tensor,
    asis: Alternative, margin: float, needed: float,
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
        if top >= needed and clearly_better(right[best], mark, margin):
            chosen, mark = best, right[best]
    return chosen


def _accuracy(logits_NK: Tensor, labels_N: Tensor) -> float:
    return float((logits_NK.argmax(1) == labels_N).float().mean())


def _loss(logits_NK: Tensor, labels_N: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits_NK, labels_N))


def _has_colour(part: Part) -> bool:
    """Whether red and blue differ in any of the first images."""
    x_BCHW = part.fetch(torch.arange(min(64, len(part))))
    return x_BCHW.shape[1] == 3 and not torch.equal(x_BCHW[:, 0], x_BCHW[:, 2])


def percent(right_N: Tensor) -> str:
    """A share of images, for people."""
    return f"{100 * float(right_N.double().mean()):.1f} %"
