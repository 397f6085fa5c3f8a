"""Attacks that train a copy of the victim on substitute images, to which the victim has given the labels.

Such an attack says what it trains and what the loss of a batch is; SGD, its cosine schedule, the labels and the loop
are here. Shapes: N images, B samples of this process's share of a batch, C channels, K classes.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from rnet.attacks.base import Attack, AttackContext, Suspect
from rnet.attacks.config import SubstituteConfig
from rnet.data.batches import Batch
from rnet.data.images import Dataset, Part, TensorSource
from rnet.data.splits import substitute_subset
from rnet.draws import derive_seed
from rnet.models.classifier import Classifier
from rnet.training.labels import label_table
from rnet.training.loop import Run

if TYPE_CHECKING:
    from rnet.engines.base import LossOf

M = TypeVar("M", bound=nn.Module)
Victim = Callable[[Tensor], Tensor]
Objective = Callable[[int, Batch, Tensor], "LossOf"]
"""(step, batch, the victim's labels of it) -> the loss of rows of that batch."""


class SubstituteAttack(Attack):
    """Trains a copy of the victim by SGD on substitute images.

    A further attack of this kind overrides `objective`, and `module`, `trained` or `period` where it needs to.
    """

    config: SubstituteConfig
    period: ClassVar[float] = 1.0
    """Of the cosine schedule, in iterations: above 1 it does not come down to 0."""

    def __call__(
        self, victim: M, images_NCHW: Tensor, *, seed: int = 0, flip: bool = False, precision: str = "fp32"
    ) -> M:
        """A copy of the victim, attacked, in eval mode; the victim stays as it is. Runs where the victim is.

        victim: images -> logits (N, K). images_NCHW: all substitute images, without labels: floats as the victim takes
        them, or uint8 for one that takes pixels in [0, 1]. seed: order and noise. flip: whether a mirrored image is
        still a natural one, and may be trained on. precision: fp32, bf16 or fp16.
        """
        device = next(victim.parameters()).device
        frozen = copy.deepcopy(victim).eval().requires_grad_(False)
        nobodys_N = torch.zeros(len(images_NCHW), dtype=torch.int64)
        part = Part(
            source=TensorSource(images_NCHW.to(device)), positions_N=torch.arange(len(images_NCHW)), labels_N=nobodys_N
        )
        training = Training(
            self, part, frozen, copy.deepcopy(frozen), run=Run(label=self.name, device=device, precision=precision),
            default_layer=None, seed=derive_seed(seed, self.name), flip=flip,
        )  # fmt: skip
        training.optimise()
        surrogate: M = training.surrogate.eval()
        return surrogate

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:
        """Refuses what `module` and `trained` refuse, and a substitute set larger than the pool."""
        self.module(blueprint, default_layer)
        self.trained(blueprint)
        substitute_subset(dataset, self.config.substitute_size, seed=0)

    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """A copy of the victim, attacked."""
        training = self.prepare(dataset, context)
        training.optimise()
        return Suspect(model=training.surrogate, derived=True, cost=training.cost)

    def prepare(self, dataset: Dataset, context: AttackContext) -> Training:
        """Everything up to the first step."""
        seed = derive_seed(context.seed, self.name)
        part = substitute_subset(dataset, self.config.substitute_size, seed=derive_seed(seed, "substitute"))
        return Training(
            self, part, context.victim_forward, context.copy_of_victim(), run=context.run,
            default_layer=context.default_layer, seed=seed, flip=dataset.flip,
        )  # fmt: skip

    # --- what an attack says

    @abstractmethod
    def objective(self, training: Training) -> Objective:
        """Called once, before the first step: what the loss of each batch will be."""

    def module(self, surrogate: nn.Module, default_layer: str | None) -> nn.Module:
        """What the engine trains: the surrogate, or a module around it."""
        return surrogate

    def trained(self, surrogate: nn.Module) -> list[nn.Parameter]:
        """Which parameters of the surrogate; the others stay."""
        return list(surrogate.parameters())


class Training:
    """A surrogate about to be trained: step(t) is its t-th step, on batches(t), with the labels of labels_N2.

    run, engine, part, seed: for the attack's objective.
    """

    def __init__(
        self, attack: SubstituteAttack, part: Part, victim: Victim, surrogate: Any, *, run: Run,
        default_layer: str | None, seed: int, flip: bool,
    ) -> None:  # fmt: skip
        config = attack.config
        self.run, self.part, self.seed, self.surrogate = run, part, seed, surrogate
        self.num_steps: int = config.iterations
        self.labels_N2 = label_table(victim, part, run.device)
        trained = attack.trained(surrogate.requires_grad_(False))
        for parameter in trained:
            parameter.requires_grad_(True)
        module = attack.module(surrogate, default_layer)
        self.batches = run.batches(part, config.batch_size, derive_seed(seed, "batches"), flip=flip)
        optimizer = torch.optim.SGD(
            trained, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=int(attack.period * config.iterations))
        self.engine = run.engine(module, optimizer, scheduler, clip_norm=config.clip_norm)
        self._objective = attack.objective(self)

    @property
    def cost(self) -> dict[str, Any]:
        """Counts, not seconds."""
        return {
            "substitute_samples": len(self.part),
            "iterations": self.num_steps,
            "victim_queries": self.labels_N2.numel(),
        }

    def example(self) -> Tensor:
        """One image, (1, C, H, W), on the device."""
        return self.part.pixels(torch.arange(1), self.run.device)

    def loss_of(self, t: int) -> tuple[LossOf, int]:
        """The loss of the t-th batch, and how many samples it has here."""
        batch = self.batches(t)
        y_B = batch.look_up(self.labels_N2)
        return self._objective(t, batch, y_B), len(y_B)

    def step(self, t: int) -> dict[str, Tensor]:
        """Takes the t-th step; what is to be reported."""
        return self.engine.descend(*self.loss_of(t))

    def optimise(self) -> None:
        """Takes all steps; resumes where the run was cut off."""
        self.run.optimise(self.engine, num_steps=self.num_steps, step=self.step, seed=derive_seed(self.seed, "global"))


def agreement(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """Share of samples with the victim's label, 0-dim."""
    return (logits_BK.detach().argmax(1) == y_B).float().mean()
