"""AKH: agreement on known hard examples, the natural images that the victim gets wrong.

Source: the baseline of "Queries, Representation, Detection: The Next 100 Model Fingerprinting Schemes" (QuRD, AAAI
2025). Independent models rarely make the same mistakes; a derived model does.

Shapes: N queries, C channels, H height, W width, K classes, B images of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.defenses.akh.config import AKHConfig
from rnet.defenses.base import Defense, Fingerprint
from rnet.defenses.metric import Metric
from rnet.defenses.queries import check_suspect, logits_of, seeded_indices
from rnet.defenses.sizes import FEWEST_QUERIES
from rnet.errors import UserError
from rnet.rewrites.modes import device_of


class AKH(Defense):
    """Share of the victim's mistakes that a suspect labels differently; needs labels.

    Tensors: queries_NCHW, labels_N (the victim's).
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="disagreement", direction="distance", low=0.0, high=1.0, access="labels"),
    )
    config: AKHConfig

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Finds images that the victim gets wrong, in the test part first, then in the training part.

        Raises UserError when there are fewer than 10. Metadata says how many came from the test part.
        """
        mistakes = find_mistakes(victim, dataset, self.config.num_queries, seed, self.config.batch_size)
        count = len(mistakes.queries_NCHW)
        if count < FEWEST_QUERIES:
            raise UserError(f"{mistakes}; AKH needs at least {FEWEST_QUERIES} of them: add test images to the dataset")
        tensors = {"queries_NCHW": mistakes.queries_NCHW, "labels_N": mistakes.logits_NK.argmax(dim=1)}
        return Fingerprint.of(
            self, dataset, seed, tensors, num_classes=mistakes.logits_NK.shape[1], num_queries=count,
            num_queries_asked=self.config.num_queries, num_from_test=mistakes.from_test,
        )  # fmt: skip

    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """{"disagreement": share of queries on which the suspect's label is not the victim's}, in [0, 1]."""
        logits_NK = logits_of(suspect, fingerprint.tensors["queries_NCHW"], self.config.batch_size)
        check_suspect(fingerprint, logits_NK)
        labels_N = fingerprint.tensors["labels_N"]
        return {"disagreement": float((logits_NK.argmax(dim=1).cpu() != labels_N).double().mean())}


@dataclass(frozen=True, eq=False, kw_only=True)
class Mistakes:
    """Images that a victim gets wrong; as text, the sentence that says how many there are.

    queries_NCHW: pixels. logits_NK: the victim's. from_test: how many are test images; they come first. All on the CPU.
    """

    queries_NCHW: Tensor
    logits_NK: Tensor
    from_test: int
    dataset: Dataset

    def __str__(self) -> str:
        sizes = f"{len(self.dataset.test)} test and {len(self.dataset.train)} training images"
        return f"the victim gets only {len(self.queries_NCHW)} of the {sizes} of dataset {self.dataset.name} wrong"


def find_mistakes(victim: nn.Module, dataset: Dataset, count: int, seed: int, batch_size: int) -> Mistakes:
    """Up to `count` images whose label is not the victim's argmax: test part, then training part, in seeded order.

    Stops looking as soon as there are enough, so a large dataset is rarely read to its end.
    """
    queries, logits, from_test = [], [], 0
    found = 0
    for part, name in ((dataset.test, "test"), (dataset.train, "train")):
        order_N = seeded_indices(len(part), len(part), seed, f"mistakes/{name}")
        for indices_B in order_N.split(batch_size):
            if found >= count:
                break
            x_BCHW = part.pixels(indices_B, device_of(victim))
            logits_BK = logits_of(victim, x_BCHW, batch_size, role="victim")
            wrong_B = logits_BK.argmax(dim=1).cpu() != part.labels_N[indices_B]
            chosen = wrong_B.nonzero().squeeze(1)[: count - found]
            queries.append(x_BCHW.cpu()[chosen])
            logits.append(logits_BK.cpu()[chosen])
            found += len(chosen)
        if name == "test":
            from_test = found
    return Mistakes(queries_NCHW=torch.cat(queries), logits_NK=torch.cat(logits), from_test=from_test, dataset=dataset)
