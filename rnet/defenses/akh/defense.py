"""AKH: agreement on known hard examples, the natural images that the victim gets wrong.

Source: the baseline of "Queries, Representation, Detection: The Next 100 Model Fingerprinting Schemes" (QuRD, AAAI
2025). Independent models rarely make the same mistakes; a derived model does.

Shapes: N queries, C channels, H height, W width, K classes, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.data.pixels import images_at_once
from rnet.defenses.akh.config import AKHConfig
from rnet.defenses.base import Defense, Fingerprint
from rnet.defenses.metric import Metric
from rnet.defenses.queries import check_suspect, logits_of, seeded_generator, seeded_indices
from rnet.defenses.sizes import FEWEST_QUERIES
from rnet.errors import UserError
from rnet.rewrites.modes import device_of


class AKH(Defense):
    """Share of the victim's mistakes that a suspect labels differently; needs labels.

    Tensors: queries_NCHW, labels_N (the victim's).
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="disagreement", direction="distance", low=0.0, high=1.0, access="labels", share_of="num_queries"),
    )
    config: AKHConfig

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Finds images that the victim gets wrong, in the test part first, then in the training part or by mixing them.

        Raises UserError when there are fewer than 10. Metadata says how many came from the test part.
        """
        fill, batch_size = self.config.fill, self.config.batch_size
        parts = ("test", "train") if fill == "train" else ("test",)
        mistakes = find_mistakes(victim, dataset, self.config.num_queries, seed, batch_size, parts)
        count = len(mistakes.queries_NCHW)
        if count < FEWEST_QUERIES:
            raise UserError(f"{mistakes}; AKH needs at least {FEWEST_QUERIES} of them: add test images to the dataset")
        queries_NCHW, labels_N = mistakes.queries_NCHW, mistakes.logits_NK.argmax(dim=1)
        if fill == "cutmix" and count < self.config.num_queries:
            queries_NCHW = filled_up(queries_NCHW, self.config.num_queries, seed)
            labels_N = logits_of(victim, queries_NCHW, batch_size, role="victim").argmax(dim=1).cpu()
        tensors = {"queries_NCHW": queries_NCHW, "labels_N": labels_N}
        return Fingerprint.of(
            self, dataset, seed, tensors, num_classes=mistakes.logits_NK.shape[1], num_queries=len(queries_NCHW),
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

    queries_NCHW: pixels. logits_NK: the victim's. from_test: how many are test images; they come first. parts: where
    they were looked for. All on the CPU.
    """

    queries_NCHW: Tensor
    logits_NK: Tensor
    from_test: int
    dataset: Dataset
    parts: Sequence[str]

    def __str__(self) -> str:
        sizes = {"test": f"{len(self.dataset.test)} test", "train": f"{len(self.dataset.train)} training"}
        looked = " and ".join(sizes[name] for name in self.parts)
        return (
            f"the victim gets only {len(self.queries_NCHW)} of the {looked} images of dataset {self.dataset.name} wrong"
        )


def find_mistakes(
    victim: nn.Module,
    dataset: Dataset,
    count: int,
    seed: int,
    batch_size: int | None = None,
    parts: Sequence[str] = ("test", "train"),
) -> Mistakes:
    """Up to `count` images whose label is not the victim's argmax: part by part, each in seeded order.

    batch_size: images looked at together, by default as logits_of does. Stops looking as soon as there are enough, so a
    large dataset is rarely read to its end.
    """
    batch_size = batch_size or images_at_once(dataset.image_size)
    queries, logits, from_test = [], [], 0
    found = 0
    for name in parts:
        part = dataset.test if name == "test" else dataset.train
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
    return Mistakes(
        queries_NCHW=torch.cat(queries), logits_NK=torch.cat(logits), from_test=from_test, dataset=dataset, parts=parts
    )


def filled_up(mistakes_NCHW: Tensor, count: int, seed: int) -> Tensor:
    """The images followed by CutMix of them until there are `count` (Yun et al. 2019, alpha 1, as in QuRD's program).

    A round pastes one box of every image into the next one and adds the mixtures, mirrored ones, and ones upside down.
    """
    generator = seeded_generator(seed, "akh/cutmix")
    height, width = mistakes_NCHW.shape[2:]
    queries, found = [mistakes_NCHW], len(mistakes_NCHW)
    while found < count:
        # The box has the share 1 - lambda of the area, lambda uniform: Beta(1, 1).
        half = 0.5 * float(torch.rand((), generator=generator)) ** 0.5
        spans = []
        for side in (height, width):
            centre = int(torch.randint(side, (1,), generator=generator))
            spans.append(slice(max(centre - int(half * side), 0), min(centre + int(half * side), side)))
        mixed_NCHW = mistakes_NCHW.clone()
        mixed_NCHW[:, :, spans[0], spans[1]] = mistakes_NCHW.roll(1, dims=0)[:, :, spans[0], spans[1]]
        queries += [mixed_NCHW, mixed_NCHW.flip(3), mixed_NCHW.flip(2)]
        found += 3 * len(mixed_NCHW)
    return torch.cat(queries)[:count]
