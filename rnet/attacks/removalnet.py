"""RemovalNet: the min-max bilevel attack that removes a network's fingerprint while keeping its accuracy.

Yao et al., "RemovalNet: DNN Fingerprint Removal Attacks", IEEE TDSC 2023. Each step solves two lower-level problems for
its batch (bilevel.py) on the surrogate in eval mode, then takes one upper-level step from ONE train-mode forward.

Shapes: B batch, C channels of z, K classes, P = num_poison_steps + 1 shuffles.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnet.attacks import bilevel
from rnet.attacks.base import Attack, AttackContext, Suspect, check_positive, label_table
from rnet.data.batches import Batch, TrainingBatches
from rnet.data.images import Dataset
from rnet.data.splits import substitute_subset
from rnet.draws import channel_permutations, derive_seed, moved_channels, uniform
from rnet.engines.base import Engine
from rnet.engines.collectives import gather_rows, sum_over_ranks, world_size
from rnet.engines.memory_format import use_channels_last
from rnet.errors import UserError, unknown_name
from rnet.models.classifier import Classifier
from rnet.models.folding import FoldedSplit
from rnet.models.split import SplitModel, channel_axis
from rnet.training import Step


@dataclass(frozen=True, kw_only=True)
class RemovalNetConfig:
    """Defaults are those of the authors' CIFAR10 runs; configs/attack_preset holds their other datasets'."""

    name: str = "removalnet"
    """The attack's name."""
    seed: int | None = None
    """Subset, order and noise; None takes the run's seed."""
    layer: str | None = None
    """The cut: the surrogate is tail o head, head ends with this module. None takes the architecture's usual cut."""
    substitute_size: int = 400
    """How many unlabelled images the attacker has."""
    iterations: int = 1000
    """Upper-level (optimizer) steps."""
    batch_size: int = 128
    """Global batch size."""
    temperature: float = 20.0
    """T of the distillation term."""
    alpha: float = 0.2
    """Weight of the distillation term, which also carries T^2."""
    beta: float = 2.0
    """Weight of the mean squared error between features and their latent target."""
    gamma: float = 0.6
    """Weight of the cross-entropy with the victim's labels."""
    target: str = "official"
    """The logits-level target: official, logits or probs."""
    distance: str = "l2"
    """The latent distance that is driven up: l2 (one norm over the batch) or cosine."""
    rho: float = 0.02
    """Share of channels that each shuffle permutes among themselves, rounded up."""
    num_poison_steps: int = 20
    """Latent-level steps per batch."""
    learning_rate: float = 8e-3
    """Start of the cosine schedule, which is cut at two thirds of its period (ends at a quarter of the start)."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 1e-4
    """On all parameters."""
    clip_norm: float | None = None
    """Largest l2 norm of all gradients together; None does not clip."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An attack about to start: step(t) is its t-th step, on batches(t), whose labels are in labels_N2 (base.py)."""

    engine: Engine
    step: Step
    surrogate: Classifier
    batches: TrainingBatches
    labels_N2: Tensor
    cost: dict[str, Any]


class RemovalNet(Attack):
    """The attack. `latent_target`, `logits_target` and `loss` are seams: override them for variants and ablations."""

    name = "removalnet"
    config: RemovalNetConfig

    def __init__(self, config: RemovalNetConfig) -> None:
        super().__init__(config)
        check_positive("attack", substitute_size=config.substitute_size, iterations=config.iterations,
                       batch_size=config.batch_size, temperature=config.temperature,
                       learning_rate=config.learning_rate)  # fmt: skip
        if not 0 < config.rho <= 1:
            raise UserError(f"attack.rho={config.rho} must be above 0 and at most 1")
        if config.num_poison_steps < 0:
            raise UserError(f"attack.num_poison_steps={config.num_poison_steps} must be 0 or more")
        for key, value, valid in (
            ("target", config.target, ("official", "logits", "probs")),
            ("distance", config.distance, ("l2", "cosine")),
        ):
            if value not in valid:
                raise unknown_name(f"attack.{key}", value, valid)

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:
        """Refuses a layer that cannot be cut at, and a substitute set larger than the pool."""
        self.split(blueprint, default_layer)
        substitute_subset(dataset, self.config.substitute_size, seed=0)

    def split(self, model: Classifier, default_layer: str | None) -> SplitModel:
        """The model cut at config.layer, or at its architecture's usual cut."""
        layer = self.config.layer or default_layer
        if layer is None:
            raise UserError(
                f"attack.layer is not set and this architecture has no usual cut; choose one of "
                f"{', '.join(model.layer_names()[:40])}"
            )
        return SplitModel(model, layer)

    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """The surrogate: a copy of the victim moved away from its fingerprint."""
        ready = self.prepare(dataset, context)
        seed = derive_seed(derive_seed(context.seed, "removalnet"), "global")
        context.run.optimise(ready.engine, num_steps=self.config.iterations, step=ready.step, seed=seed)
        return Suspect(model=ready.surrogate, derived=True, cost=ready.cost)

    def prepare(self, dataset: Dataset, context: AttackContext) -> Prepared:
        """Everything up to the first step."""
        config, run, seed = self.config, context.run, derive_seed(context.seed, "removalnet")
        part = substitute_subset(dataset, config.substitute_size, seed=derive_seed(seed, "substitute"))
        labels_N2 = label_table(context.victim_forward, part, run.device)
        surrogate = copy.deepcopy(context.victim)
        for parameter in surrogate.parameters():
            parameter.requires_grad_(True)
        split = self.split(surrogate, context.default_layer)
        batches = run.batches(part, config.batch_size, derive_seed(seed, "batches"), flip=dataset.flip)
        optimizer = torch.optim.SGD(
            split.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=int(1.5 * config.iterations))
        use_channels_last(split)
        folded = FoldedSplit(split)
        engine = run.engine(split, optimizer, scheduler, clip_norm=config.clip_norm)
        inner = folded.split if engine.whole else split

        def step(t: int) -> dict[str, Tensor]:
            batch = batches(t)
            y_B = labels_N2[batch.indices_B.to(run.device, non_blocking=True), batch.flipped_B.long()]
            if engine.whole:
                folded.refresh()
            z1, q_BK, metrics = self.lower_level(engine, inner, batch, y_B, seed, t)
            split.train()

            def upper_level(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
                logits_BK, z = engine.forward(batch.x_BCHW[rows], return_features=True)
                total, parts = self.loss(logits_BK, z, z1[rows], q_BK[rows], y_B[rows])
                agreement = (logits_BK.detach().argmax(1) == y_B[rows]).float().mean()
                return total, {**{f"loss/{name}": v for name, v in parts.items()}, "agreement/batch": agreement}

            return {**engine.descend(upper_level, len(y_B)), **metrics}

        cost = {"substitute_samples": len(part), "iterations": config.iterations, "victim_queries": labels_N2.numel()}
        return Prepared(engine=engine, step=step, surrogate=surrogate, batches=batches, labels_N2=labels_N2, cost=cost)

    def lower_level(
        self, engine: Engine, split: SplitModel, batch: Batch, y_B: Tensor, seed: int, t: int
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Both lower-level targets (z1, q) for a batch. The surrogate is in eval mode; no `.grad` or buffer changes."""
        split.eval()
        with engine.lower_level():
            with torch.no_grad(), engine.autocast():
                z = split.head(batch.x_BCHW).float()  # bfloat16 would swallow the small latent steps
                logits_BK = split.tail(z)
            with engine.autocast():
                z1 = self.latent_target(split.tail, z, y_B, batch.stream_ids_B, seed, t, chunks=engine.accumulate)
        metrics = {"latent/distance": bilevel.latent_distance(z1, z, total=sum_over_ranks)}
        return z1, self.logits_target(logits_BK, y_B), metrics

    def latent_target(
        self,
        tail: Callable[[Tensor], Tensor],
        z: Tensor,
        y_B: Tensor,
        sample_ids_B: Tensor,
        seed: int,
        t: int,
        *,
        chunks: int = 1,
    ) -> Tensor:
        """z1: features far from z that the tail still gives the label y, after num_poison_steps shuffled sign steps.

        D is one norm over the batch of all processes, and every draw belongs to a sample: shares of a batch come out
        as they would within it. chunks: parts that go through the tail one after the other.
        """
        config = self.config
        axis = channel_axis(z)
        u = uniform(seed, "latent start", t, sample_ids_B, math.prod(z.shape[1:]), device=z.device).view(z.shape)
        calls, channels = config.num_poison_steps + 1, z.shape[axis]
        permutations: Sequence[Tensor | None] = [None] * calls
        if moved_channels(channels, config.rho) > 1:
            drawn = channel_permutations(seed, "shuffle", t, sample_ids_B, calls, channels, config.rho, device=z.device)
            permutations = drawn.unbind()
        z1 = bilevel.latent_start(z, u, permutations[0], axis)
        for perm_BC in permutations[1:]:
            z1 = bilevel.latent_step(
                tail, z1, z, y_B, perm_BC, axis, kind=config.distance,  # type: ignore[arg-type]
                processes=world_size(), total=sum_over_ranks, chunks=chunks,
            )  # fmt: skip
        return z1

    def logits_target(self, logits_BK: Tensor, y_B: Tensor) -> Tensor:
        """q: the distribution the student's logits are drawn to; partners come from the batch of all processes."""
        gallery_GK = gather_rows(logits_BK)
        return bilevel.logits_target(
            logits_BK,
            y_B,
            self.config.temperature,
            self.config.target,  # type: ignore[arg-type]
            gallery_GK=gallery_GK,
        )

    def loss(
        self, logits_BK: Tensor, z: Tensor, z1: Tensor, q_BK: Tensor, y_B: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The upper-level loss and its named parts."""
        config = self.config
        return bilevel.upper_loss(
            logits_BK, z, z1, q_BK, y_B, T=config.temperature, alpha=config.alpha, beta=config.beta, gamma=config.gamma
        )
