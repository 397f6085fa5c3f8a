"""RemovalNet: the min-max bilevel attack that removes a network's fingerprint while keeping its accuracy.

Yao et al., "RemovalNet: DNN Fingerprint Removal Attacks", IEEE TDSC 2023. Each step solves two lower-level problems for
its batch (bilevel.py) on the surrogate in eval mode, then takes one upper-level step from ONE train-mode forward.

Shapes: B batch, C channels of z, K classes, P = num_poison_steps + 1 shuffles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnet.attacks.base import Attack, AttackContext, Suspect, label_table
from rnet.attacks.removalnet import bilevel
from rnet.attacks.removalnet.config import RemovalNetConfig
from rnet.attacks.removalnet.latent_loop import LatentLoop
from rnet.cutting.split import SplitModel, channel_axis
from rnet.data.batches import Batch, TrainingBatches
from rnet.data.images import Dataset
from rnet.data.splits import substitute_subset
from rnet.draws import channel_permutations, derive_seed, moved_channels, uniform
from rnet.engines.base import Engine
from rnet.engines.choice import fused_operations, graph_obstacle, small_maps_obstacle
from rnet.errors import UserError
from rnet.kernels.admissible_mix import mixed_target
from rnet.kernels.distillation_loss import distillation_loss
from rnet.models.classifier import Classifier
from rnet.parallel.collectives import gather_rows, sum_over_ranks
from rnet.rewrites.folding import FoldedSplit
from rnet.rewrites.memory_format import use_channels_last
from rnet.training.loop import Step


@dataclass(frozen=True, kw_only=True)
class LowerLevel:
    """Of one batch with labels y_B: both targets, and what is to be reported."""

    batch: Batch
    y_B: Tensor
    z1: Tensor
    q_BK: Tensor
    metrics: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An attack about to start: step(t) is its t-th step, on batches(t), whose labels are in labels_N2 (base.py).

    lower_level(t) is the part of it that leaves the surrogate as it was, but in eval mode.
    """

    engine: Engine
    step: Step
    lower_level: Callable[[int], LowerLevel]
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
        self.loop = LatentLoop(config.distance)  # type: ignore[arg-type]

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
        surrogate = context.copy_of_victim()
        for parameter in surrogate.parameters():
            parameter.requires_grad_(True)
        split = self.split(surrogate, context.default_layer)
        batches = run.batches(part, config.batch_size, derive_seed(seed, "batches"), flip=dataset.flip)
        optimizer = torch.optim.SGD(
            split.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=int(1.5 * config.iterations))
        use_channels_last(split)
        direct = small_maps_obstacle(run.config, run.device, run.precision)
        unused = direct or run.config.name == "deepspeed"  # whose lower level runs on the surrogate itself
        engine = run.engine(split, optimizer, scheduler, clip_norm=config.clip_norm)
        if engine.whole:
            folded = FoldedSplit(split, small_maps_for=None if unused else part.pixels(torch.arange(1), run.device))
        inner = folded.split if engine.whole else split
        if run.config.compile and engine.whole:
            inner.tail = torch.compile(inner.tail)  # type: ignore[method-assign]
        self.loop = LatentLoop(
            config.distance,  # type: ignore[arg-type]
            fused=fused_operations(run.config, run.device),
            no_graph=graph_obstacle(run.config, run.device, engine.whole),
        )
        said = False

        def lower_level(t: int) -> LowerLevel:
            batch = batches(t)
            y_B = labels_N2[batch.indices_B.to(run.device, non_blocking=True), batch.flipped_B.long()]
            if engine.whole:
                folded.refresh()
            z1, q_BK, metrics = self.lower_level(engine, inner, batch, y_B, seed, t)
            return LowerLevel(batch=batch, y_B=y_B, z1=z1, q_BK=q_BK, metrics=metrics)

        def step(t: int) -> dict[str, Tensor]:
            lower = lower_level(t)
            split.train()
            nonlocal said
            if not said:
                said = True
                norms = "not folded (parameters are divided)"
                if engine.whole:
                    why = f" ({direct})" if direct else ""
                    maps = f"{len(folded.rewritten)} convolutions of small maps rewritten{why}"
                    norms = f"{folded.count} batch norms folded, {maps}"
                how = "compiled" if run.config.compile and engine.whole else "not compiled (engine.compile=false)"
                run.say(f"lower level of {config.num_poison_steps} steps: {self.loop.describe()}, {norms}, {how}")

            def upper_level(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
                y_b = lower.y_B[rows]
                logits_BK, z = engine.forward(lower.batch.x_BCHW[rows], return_features=True)
                total, parts = self.loss(logits_BK, z, lower.z1[rows], lower.q_BK[rows], y_b)
                agreement = (logits_BK.detach().argmax(1) == y_b).float().mean()
                return total, {**{f"loss/{name}": v for name, v in parts.items()}, "agreement/batch": agreement}

            return {**engine.descend(upper_level, len(lower.y_B)), **lower.metrics}

        cost = {"substitute_samples": len(part), "iterations": config.iterations, "victim_queries": labels_N2.numel()}
        return Prepared(
            engine=engine, step=step, lower_level=lower_level, surrogate=surrogate, batches=batches,
            labels_N2=labels_N2, cost=cost,
        )  # fmt: skip

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
        permutations_PBC = None
        if moved_channels(channels, config.rho) > 1:
            permutations_PBC = channel_permutations(
                seed, "shuffle", t, sample_ids_B, calls, channels, config.rho, device=z.device
            )
        return self.loop(tail, z, u, y_B, permutations_PBC, axis, steps=config.num_poison_steps, chunks=chunks)

    def logits_target(self, logits_BK: Tensor, y_B: Tensor) -> Tensor:
        """q: the distribution the student's logits are drawn to; partners come from the batch of all processes."""
        gallery_GK = gather_rows(logits_BK)
        if self.loop.fused:
            mode = self.config.target
            mixed_BK = mixed_target(logits_BK, y_B, mode, gallery_GK=gallery_GK)  # type: ignore[arg-type]
            return mixed_BK if mode == "probs" else (mixed_BK / self.config.temperature).softmax(dim=1)
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
        weights = {"alpha": config.alpha, "gamma": config.gamma}
        if not self.loop.fused:
            return bilevel.upper_loss(logits_BK, z, z1, q_BK, y_B, T=config.temperature, beta=config.beta, **weights)
        total, parts = distillation_loss(
            logits_BK, q_BK, y_B, temperature=config.temperature, soften_target=False, **weights
        )
        mse = bilevel.feature_error(z, z1)
        return total + config.beta * mse, {"kl": parts["kl"], "mse": mse.detach(), "ce": parts["ce"]}
