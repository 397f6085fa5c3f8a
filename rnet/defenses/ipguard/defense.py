"""IPGuard: inputs just across the victim's decision boundary, on which a derived model repeats the victim's labels.

Source: Cao, Jia, Gong, "IPGuard: Protecting Intellectual Property of Deep Neural Networks via Fingerprinting the
Classification Boundary", AsiaCCS 2021. Here the queries are pixels in [0, 1] and the model is in eval mode.

Shapes: N queries, M queries still searching, C channels, H height, W width, K classes. A query starts in class i and
is sent towards class j.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.defenses.base import Defense, Fingerprint
from rnet.defenses.ipguard.config import IPGuardConfig
from rnet.defenses.metric import Metric, share_of_labels
from rnet.defenses.queries import (
    check_suspect,
    is_light,
    logits_of,
    quick_copy,
    samples_per_chunk,
    seeded_generator,
    seeded_indices,
    train_mode_logits,
    without_onednn,
)
from rnet.defenses.row_adam import RowAdam
from rnet.errors import UserError
from rnet.models.access import Access
from rnet.parallel.collectives import map_rows
from rnet.rewrites.modes import device_of, frozen_eval
from rnet.training.monitor.progress import tell

CONVERGED = 1e-5
CHECK_EVERY = 20  # steps between two looks at how many queries have converged: each look waits for the device
CHECK_EVERY_ON_CPU = 4  # nothing to wait for there, and every converged query in the batch costs its share
SHRINK_TO = 0.8  # of the batch must be searching still, or it is made smaller: each new size costs a library's set-up


class IPGuard(Defense):
    """Matching rate on boundary queries; needs labels. Tensors: queries_NCHW, labels_N (the victim's), converged_N."""

    metrics: ClassVar[tuple[Metric, ...]] = (share_of_labels("matching_rate"),)
    config: IPGuardConfig

    def access(self, metric: Metric) -> Access:
        """Train mode needs the model itself."""
        return "white_box" if self.config.suspect_mode == "train" else metric.access

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Moves images across the victim's boundary (section 4 of the paper).

        Raises UserError when the dataset has too few images or the victim no usable logits. Queries that did
        not converge are kept; metadata says how many did.
        """
        x_NCHW, i_N, j_N = self.starting_points(victim, dataset, seed)
        size = samples_per_chunk(victim, x_NCHW, self.config.memory_mb)
        unit_C11 = torch.ones(x_NCHW.shape[1], 1, 1, device=x_NCHW.device)
        if self.config.units == "normalised":
            unit_C11 *= torch.tensor(dataset.std_C, device=x_NCHW.device).view(-1, 1, 1)
        with frozen_eval(victim):
            searched = quick_copy(victim)

            def search(*starts_N: Tensor) -> tuple[Tensor, ...]:
                parts = zip(*(t.split(size) for t in starts_N), strict=True)
                chunks = [self._search(searched, unit_C11, *part) for part in parts]
                return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))

            queries_NCHW, done_N, steps_N = map_rows(search, x_NCHW, i_N, j_N)
        logits_NK = logits_of(victim, queries_NCHW, role="victim")
        converged_N = done_N | self._arrived(logits_NK, objective(logits_NK, i_N, j_N, self.config.k), j_N)
        tensors = {
            "queries_NCHW": queries_NCHW.cpu().contiguous(),
            "labels_N": logits_NK.argmax(dim=1).cpu(),
            "converged_N": converged_N.cpu(),
        }
        return Fingerprint.of(
            self, dataset, seed, tensors, num_classes=logits_NK.shape[1], num_queries=len(queries_NCHW),
            converged_share=int(converged_N.sum()) / len(converged_N), steps_run=int(steps_N.max()),
        )  # fmt: skip

    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """{"matching_rate": share of queries to which the suspect gives the victim's label}, in [0, 1]."""
        queries_NCHW = fingerprint.tensors["queries_NCHW"]
        if self.config.suspect_mode == "train":
            logits_NK = train_mode_logits(suspect, queries_NCHW, seed=int(fingerprint.metadata["seed"]))
        else:
            logits_NK = logits_of(suspect, queries_NCHW)
        check_suspect(fingerprint, logits_NK)
        return {"matching_rate": matching_rate(fingerprint.tensors["labels_N"], logits_NK)}

    def starting_points(self, victim: nn.Module, dataset: Dataset, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images (N, C, H, W), their classes i (N,), the classes j to reach (N,); on the victim's device."""
        count, named = self.config.num_queries, self.config.images
        part = dataset.train if named == "train" else dataset.test
        if len(part) < count:
            raise UserError(
                f"defense.num_queries={count} needs as many {named} images, but dataset {dataset.name} has "
                f"{len(part)}; lower defense.num_queries"
            )
        indices_N = seeded_indices(len(part), count, seed, "ipguard/images")
        x_NCHW = part.pixels(indices_N, device_of(victim))
        logits_NK = logits_of(victim, x_NCHW, role="victim")
        classes = logits_NK.shape[1]
        if classes < 2:
            raise UserError("the victim has one class only; IPGuard needs a decision boundary, so at least two classes")
        i_N = logits_NK.argmax(dim=1)
        if self.config.target == "least_likely":
            # A victim with equal logits everywhere would have j = i: take the next class then.
            j_N = logits_NK.argmin(dim=1)
            return x_NCHW, i_N, torch.where(j_N == i_N, (i_N + 1) % classes, j_N)
        generator = seeded_generator(seed, "ipguard/targets")
        if self.config.target == "any":
            return x_NCHW, i_N, torch.randint(0, classes, (count,), generator=generator).to(i_N.device)
        draw_N = torch.randint(0, classes - 1, (count,), generator=generator).to(i_N.device)
        return x_NCHW, i_N, draw_N + (draw_N >= i_N)  # skips class i

    def _arrived(self, logits_NK: Tensor, loss_N: Tensor, j_N: Tensor) -> Tensor:
        """Which queries have come where they are sent, by the rule of `stop`; (N,) booleans."""
        return loss_N <= CONVERGED if self.config.stop == "margin" else logits_NK.argmax(dim=1) == j_N

    def _search(
        self, victim: nn.Module, unit_C11: Tensor, x_NCHW: Tensor, i_N: Tensor, j_N: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Final pixels, whether each converged, and the Adam steps of each. One Adam on the sum of all objectives.

        A query is frozen where its objective is first at most 1e-5: Adam's momentum would carry it on. With stop=flip
        the step from the first point labelled j is still made. Frozen queries leave the batch at a look that finds
        enough of them. unit_C11: what a step of 1 is in pixels.
        """
        found_NCHW, done_N = x_NCHW.clone(), torch.zeros_like(i_N, dtype=torch.bool)
        steps_N, live_M = torch.zeros_like(i_N), torch.arange(len(i_N), device=i_N.device)
        x_MCHW, i_M, j_M, done_M = x_NCHW, i_N, j_N, done_N
        adam = self._new_adam(x_NCHW)
        every = CHECK_EVERY if x_NCHW.is_cuda else CHECK_EVERY_ON_CPU
        age, light = 0, is_light(victim)
        for step in range(self.config.steps):
            if step % every == 0 and step > 0:
                tell(step, self.config.steps, "steps of the search")
                found_NCHW[live_M], done_N[live_M] = x_MCHW, done_M
                keep = (~done_M).nonzero().squeeze(1)
                if len(keep) == 0:
                    break
                if len(keep) <= SHRINK_TO * len(live_M):
                    live_M, x_MCHW, i_M, j_M, done_M = (t[keep] for t in (live_M, x_MCHW, i_M, j_M, done_M))
                    adam = adam.select(keep)
            with torch.enable_grad(), without_onednn(x_MCHW, light):
                leaf_MCHW = x_MCHW.detach().requires_grad_(True)
                logits_MK = victim(leaf_MCHW).float()
                loss_M = objective(logits_MK, i_M, j_M, self.config.k)
                (gradient_MCHW,) = torch.autograd.grad(loss_M.sum(), leaf_MCHW)
            before_M, done_M = done_M, done_M | self._arrived(logits_MK, loss_M.detach(), j_M)
            frozen_M = done_M if self.config.stop == "margin" else before_M
            steps_N[live_M] += ~frozen_M
            if self.config.rebuild_adam:
                age, adam = 0, self._new_adam(x_MCHW)
            age += 1
            moved_MCHW = x_MCHW - unit_C11 * adam.step(gradient_MCHW * unit_C11, age, self.config.learning_rate)
            if self.config.box:
                moved_MCHW = moved_MCHW.clamp_(0.0, 1.0)
            x_MCHW = torch.where(frozen_M[:, None, None, None], x_MCHW, moved_MCHW)
        found_NCHW[live_M], done_N[live_M] = x_MCHW, done_M
        return found_NCHW, done_N, steps_N

    def _new_adam(self, x_MCHW: Tensor) -> RowAdam:
        return RowAdam.start(x_MCHW, keras=self.config.adam == "keras")


def objective(logits_NK: Tensor, i_N: Tensor, j_N: Tensor, k: float) -> Tensor:
    """relu(Z_i - Z_j + k) + relu(max of the other logits - Z_i), shape (N,); IPGuard, section 4.

    0 where class j beats class i by k or more and no third class exceeds class i. With two classes there is no third:
    the second term is 0.
    """
    i_N1, j_N1 = i_N[:, None], j_N[:, None]
    start_N = logits_NK.gather(1, i_N1).squeeze(1)
    goal_N = logits_NK.gather(1, j_N1).squeeze(1)
    pair_NK = torch.zeros_like(logits_NK, dtype=torch.bool).scatter_(1, i_N1, True).scatter_(1, j_N1, True)
    third_N = logits_NK.masked_fill(pair_NK, -torch.inf).amax(dim=1)  # -inf, so without effect, if there is none
    return torch.relu(start_N - goal_N + k) + torch.relu(third_N - start_N)


def matching_rate(labels_N: Tensor, logits_NK: Tensor) -> float:
    """Share of fingerprint queries on which the suspect repeats the victim's label (IPGuard, section 4).

    labels_N: int64 victim labels. logits_NK: suspect logits. Returns a similarity in [0, 1]; 1 for the victim itself.
    """
    # A whole number divided once, so that 29 of 100 is 0.29 exactly as a threshold of 0.29 is.
    return int((logits_NK.argmax(dim=1) == labels_N.to(logits_NK.device)).sum()) / len(labels_N)
