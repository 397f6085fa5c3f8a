"""A network about to be trained by an attack: its images, what is known of them, its steps, and what they cost.

Shapes: N images, M ways an image is shown (as it is and, where images may be mirrored, mirrored), B samples of this
process's share of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rnet.attacks.cost import Passes, cost
from rnet.data.batches import Batch, TrainingBatches
from rnet.data.images import Part
from rnet.draws import derive_seed
from rnet.training.loop import Run

if TYPE_CHECKING:
    from rnet.engines.base import Engine, LossOf

Objective = Callable[[int, Batch, Tensor], "LossOf"]
"""(step, batch, what is known of its images: labels (B,) or scores (B, K)) -> the loss of rows of that batch."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TransferSet:
    """The images that are trained on, and what the attacker knows of each.

    answers_NM: int64 labels, or float32 scores (N, M, K), on the device; None where the victim is asked about the
    images of every batch, as augmented. ask: pixels -> labels (B,) or scores (B, K), then. victim_queries: how often
    the victim is asked. labelled: whether the labels came with the images. spent, iterations: what was trained to find
    them.
    """

    part: Part
    answers_NM: Tensor | None
    victim_queries: int
    ask: Callable[[Tensor], Tensor] | None = None
    labelled: bool = False
    spent: Passes = field(default_factory=Passes)
    iterations: int = 0

    @torch.no_grad()
    def answers(self, batch: Batch) -> Tensor:
        """What is known of the images of a batch. Called by all processes, each with its share."""
        if self.ask is not None:
            return self.ask(batch.x_BCHW)
        assert self.answers_NM is not None
        return batch.look_up(self.answers_NM)


class Training:
    """step(t) is the t-th step, on batches(t), with the answers of the transfer set.

    engine: trains a module around the surrogate. teacher: a frozen copy of what it began as, where the attack keeps
    one. passes: of one image of a step. objective: set once all else is there.
    """

    objective: Objective

    def __init__(
        self, *, run: Run, engine: Engine, batches: TrainingBatches, transfer: TransferSet, surrogate: Any,
        teacher: nn.Module | None, num_steps: int, batch_size: int, seed: int, passes: Passes,
        hooks: list[RemovableHandle],
    ) -> None:  # fmt: skip
        self.run, self.engine, self.batches, self.transfer = run, engine, batches, transfer
        self.surrogate, self.teacher, self.num_steps, self.seed = surrogate, teacher, num_steps, seed
        self._images = num_steps * batch_size
        self._passes, self._hooks = passes, hooks

    @property
    def part(self) -> Part:
        """The images."""
        return self.transfer.part

    @property
    def cost(self) -> dict[str, Any]:
        """Counts, not seconds."""
        transfer = self.transfer
        return cost(
            substitute_samples=0 if transfer.labelled else len(self.part),
            training_samples=len(self.part) if transfer.labelled else 0,
            victim_queries=transfer.victim_queries, iterations=transfer.iterations + self.num_steps,
            passes=transfer.spent + self._passes.times(self._images),
        )  # fmt: skip

    def example(self) -> Tensor:
        """One image, (1, C, H, W), on the device."""
        return self.part.pixels(torch.arange(1), self.run.device)

    def loss_of(self, t: int) -> tuple[LossOf, int]:
        """The loss of the t-th batch, and how many samples it has here."""
        with self.engine.phases("data"):
            batch = self.batches(t)
            answers_B = self.transfer.answers(batch)
        return self.objective(t, batch, answers_B), len(answers_B)

    def step(self, t: int) -> dict[str, Tensor]:
        """Takes the t-th step; what is to be reported."""
        return self.engine.descend(*self.loss_of(t))

    def optimise(self) -> None:
        """Takes all steps; resumes where the run was cut off."""
        self.run.optimise(
            self.engine, num_steps=self.num_steps, step=self.step, seed=derive_seed(self.seed, "global"),
            batches=self.batches,
        )  # fmt: skip
        for hook in self._hooks:
            hook.remove()


@torch.no_grad()
def keep_at_zero(masks: Mapping[nn.Parameter, Tensor], device: torch.device) -> list[RemovableHandle]:
    """Sets the entries of parameters to 0 where their masks are, and keeps them there until the hooks are removed.

    Without a gradient SGD leaves a 0 as it is: its momentum stays 0, and weight decay takes a share of nothing. device:
    where gradients will be. Gradients pass a parameter's hook before any engine gathers them.
    """
    hooks = []
    for parameter, zero in masks.items():
        parameter.masked_fill_(zero.to(parameter.device), 0)
        on_device = zero.to(device)
        hooks.append(parameter.register_hook(lambda gradient, zero=on_device: gradient.masked_fill(zero, 0)))
    return hooks
