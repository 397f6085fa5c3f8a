"""Random queries: on how many clean test images do victim and suspect agree? The control for every other defence.

A defence that tells models apart no better than this has no use for its special queries (QuRD, AAAI 2025).

Shapes: N queries, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from rnet.data.images import Dataset
from rnet.defenses.base import Defense, Fingerprint
from rnet.defenses.metric import Metric, share_of_labels
from rnet.defenses.queries import check_suspect, logits_of, seeded_indices
from rnet.defenses.random_queries.config import RandomQueriesConfig
from rnet.errors import UserError


class RandomQueries(Defense):
    """Label agreement on clean test images; needs labels. Tensors: queries_NCHW, labels_N (the victim's)."""

    metrics: ClassVar[tuple[Metric, ...]] = (share_of_labels("agreement"),)
    config: RandomQueriesConfig

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Draws test images and records the victim's labels. Raises UserError for too few test images."""
        count = self.config.num_queries
        if len(dataset.test) < count:
            raise UserError(
                f"defense.num_queries={count} needs as many test images, but dataset {dataset.name} has "
                f"{len(dataset.test)}; lower defense.num_queries"
            )
        queries_NCHW = dataset.test.pixels(seeded_indices(len(dataset.test), count, seed, "random/images"))
        logits_NK = logits_of(victim, queries_NCHW, self.config.batch_size, role="victim").cpu()
        tensors = {"queries_NCHW": queries_NCHW.cpu(), "labels_N": logits_NK.argmax(dim=1)}
        return Fingerprint.of(self, dataset, seed, tensors, num_classes=logits_NK.shape[1], num_queries=count)

    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """{"agreement": share of queries on which the suspect's label is the victim's}, in [0, 1]."""
        logits_NK = logits_of(suspect, fingerprint.tensors["queries_NCHW"], self.config.batch_size)
        check_suspect(fingerprint, logits_NK)
        labels_N = fingerprint.tensors["labels_N"]
        return {"agreement": float((logits_NK.argmax(dim=1).cpu() == labels_N).double().mean())}
