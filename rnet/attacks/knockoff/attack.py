"""Knockoff Nets: an untrained network learns what the victim answers to a budget of questions.

Orekondy et al., "Knockoff Nets: Stealing Functionality of Black-Box Models", CVPR 2019. As in the authors' code, images
are not augmented, and the loss is the cross-entropy with the victim's posteriors. Shapes: N images, B batch, K classes.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from rnet.attacks.knockoff.config import KnockoffConfig
from rnet.attacks.knockoff.selection import select
from rnet.attacks.substitutes import SubstituteAttack, Victim, label_loss
from rnet.attacks.training import Objective, Training, TransferSet
from rnet.data.images import Dataset, Part
from rnet.data.splits import seeded_permutation
from rnet.data.substitute.loading import UNKNOWN
from rnet.draws import derive_seed
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.training.labels import logit_table
from rnet.training.loop import Run


class Knockoff(SubstituteAttack):
    """Model stealing: neither the victim's weights nor its training images are needed."""

    config: KnockoffConfig
    fresh = True
    mirrors = False

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:
        """Also refuses more clusters than images, and groups by labels that the images do not have."""
        super().check(blueprint, dataset, default_layer)
        config = self.config
        unlabelled = bool((dataset.substitute.labels_N == UNKNOWN).any())
        if config.strategy == "adaptive" and config.groups == "labels" and unlabelled:
            raise UserError("attack.groups=labels: the attacker's images have no labels; set attack.groups=clusters")
        clusters = config.strategy == "adaptive" and config.groups == "clusters" and config.clusters is None
        if clusters and dataset.num_classes > config.substitute_size:
            raise UserError(
                f"attack.clusters=null makes {dataset.num_classes} clusters of "
                f"attack.substitute_size={config.substitute_size} images; set attack.clusters"
            )

    def transfer_set(
        self, victim: Victim, part: Part, surrogate: nn.Module, run: Run, *, seed: int, flip: bool
    ) -> TransferSet:
        """The images asked about, with the victim's posteriors, or 1 for its label."""
        budget = len(part) if self.config.queries is None else self.config.queries
        if budget > len(part):
            raise UserError(f"attack.queries={budget} is more than the {len(part)} images; give more, or lower it")
        if self.config.strategy == "adaptive":

            @torch.no_grad()
            def ask(x_RCHW: Tensor) -> Tensor:
                return self.answers(victim(x_RCHW))

            knockoff = copy.deepcopy(surrogate).to(run.device)
            return select(self.config, ask, part, knockoff, run, seed=derive_seed(seed, "choice"), budget=budget)
        asked = part.subset(seeded_permutation(len(part), seed, "queries")[:budget])
        answers_N1K = self.answers(logit_table(victim, asked, run.device, flip=False))
        return TransferSet(part=asked, answers_NM=answers_N1K, victim_queries=budget)

    def answers(self, logits_BK: Tensor) -> Tensor:
        """What the victim shows of its logits (..., K): distributions over classes."""
        if self.config.answers == "posteriors":
            return logits_BK.float().softmax(-1)
        return F.one_hot(logits_BK.argmax(-1), logits_BK.shape[-1]).float()

    def objective(self, training: Training) -> Objective:
        """Cross-entropy with the victim's answers."""
        return label_loss(training)

    def schedule(self, optimizer: Optimizer, num_steps: int) -> LRScheduler:
        """A tenth of the rate every decay_every epochs."""
        every = max(1, round(num_steps * self.config.decay_every / self.config.epochs))
        return StepLR(optimizer, step_size=every, gamma=0.1)
