"""Attacks that train a network by SGD on the attacker's images: as a rule a copy of the victim, on the victim's labels.

Such an attack says what it trains, on what, and what the loss of a batch is; the optimizer, its schedule, the answers,
the loop and the costs are here. Shapes: N images, B samples of this process's share of a batch, C channels, K classes.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from rnet.attacks.base import Attack, AttackContext, Suspect
from rnet.attacks.config import SGDConfig
from rnet.attacks.cost import Passes, training_passes
from rnet.attacks.training import Objective, Training, TransferSet, keep_at_zero
from rnet.data.batches import Batch
from rnet.data.images import Dataset, Part, TensorSource
from rnet.data.splits import substitute_subset
from rnet.data.substitute.loading import UNKNOWN
from rnet.draws import derive_seed
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.rewrites.modes import device_of
from rnet.training.labels import answer_table
from rnet.training.loop import Run

if TYPE_CHECKING:
    from rnet.engines.base import LossOf

M = TypeVar("M", bound=nn.Module)
Victim = Callable[[Tensor], Tensor]


class SubstituteAttack(Attack):
    """Trains a network by SGD on images.

    A further attack of this kind overrides `objective`, and others of the methods below it where it needs to.
    """

    config: SGDConfig
    period: ClassVar[float] = 1.0
    """Of the cosine schedule, in iterations: above 1 it does not come down to 0."""
    fresh: ClassVar[bool] = False
    """Whether it begins with an untrained network, and not with the victim."""
    keeps_victim: ClassVar[bool] = False
    """Whether each step asks a frozen copy of what it began as: training.teacher, whole on every process."""
    mirrors: ClassVar[bool] = True
    """Whether images are mirrored where a mirrored image is still a natural one."""

    def __call__(
        self, victim: M, images: Tensor | Part, labels_N: Tensor | None = None, *, start: nn.Module | None = None,
        seed: int = 0, flip: bool = False, precision: str = "fp32", run: Run | None = None,
    ) -> M:  # fmt: skip
        """A copy of the victim, attacked, in eval mode; the victim stays as it is. Runs where the victim is.

        victim: images -> logits (N, K). images: all images of the attacker: (N, C, H, W), floats as the victim takes
        them, or uint8 for one that takes pixels in [0, 1]; or a part of a dataset, such as dataset.substitute, whose
        labels he does not know. labels_N: their int64 labels, for an attack that has them. start: an untrained network
        to begin with, for an attack that does; it stays as it is, too. seed: order and noise. flip: whether a mirrored
        image is still a natural one, and may be trained on. precision: fp32, bf16 or fp16, where no run says it. run:
        what writes curves (rnet.watch).
        """
        if (start is None) == self.fresh:
            given = "begins with an untrained network; give start=" if self.fresh else "begins with the victim; leave "
            raise UserError(f"attack={self.name} {given}{'a network' if self.fresh else 'start out'}")
        device = next(victim.parameters()).device
        frozen = copy.deepcopy(victim).eval().requires_grad_(False)
        known_N = torch.full((len(images),), UNKNOWN) if labels_N is None else labels_N.cpu().long()
        if isinstance(images, Part):
            part = replace(images.to(device), labels_N=known_N)
        else:
            part = Part(source=TensorSource(images.to(device)), positions_N=torch.arange(len(images)), labels_N=known_N)
        training = self._training(
            frozen, part, copy.deepcopy(frozen if start is None else start).to(device), default_layer=None,
            run=run or Run(label=self.name, device=device, precision=precision), seed=derive_seed(seed, self.name),
            flip=flip,
        )  # fmt: skip
        training.optimise()
        surrogate: M = training.surrogate.eval()
        return surrogate

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:
        """Refuses what `module` and `trained` refuse, and a substitute set larger than the pool."""
        self.module(blueprint, default_layer)
        self.trained(blueprint)
        self.images(dataset, seed=0)

    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """The surrogate, trained."""
        training = self.prepare(dataset, context)
        training.optimise()
        return Suspect(model=training.surrogate, derived=True, cost=training.cost)

    def prepare(self, dataset: Dataset, context: AttackContext) -> Training:
        """Everything up to the first step."""
        seed = derive_seed(context.seed, self.name)
        part = self.images(dataset, derive_seed(seed, "substitute"))
        surrogate = context.build(derive_seed(seed, "model")) if self.fresh else context.copy_of_victim()
        return self._training(
            context.victim_forward, part, surrogate, default_layer=context.default_layer, run=context.run, seed=seed,
            flip=dataset.flip,
        )  # fmt: skip

    def _training(
        self, victim: Victim, part: Part, surrogate: nn.Module, *, default_layer: str | None, run: Run, seed: int,
        flip: bool,
    ) -> Training:  # fmt: skip
        config = self.config
        flip = flip and self.mirrors if config.augment is None else "flip" in config.augment
        crop_padding = config.crop_padding if "crop" in (config.augment or []) else 0
        surrogate.requires_grad_(False)
        transfer = (
            self.asking(victim, part)
            if crop_padding and self.asks
            else self.transfer_set(victim, part, surrogate, run, seed=seed, flip=flip)
        )
        teacher = copy.deepcopy(surrogate).eval().to(run.device) if self.keeps_victim else None
        self.begin(surrogate, seed)
        trained = self.trained(surrogate)
        for parameter in trained:
            parameter.requires_grad_(True)
        module = self.module(surrogate, default_layer)
        passes = self.passes(module, part.pixels(torch.arange(1), device_of(surrogate)), trained)
        hooks = keep_at_zero(self.zeros(surrogate), run.device)
        num_steps = config.steps(len(transfer.part))
        batches = run.batches(
            transfer.part, config.batch_size, derive_seed(seed, "batches"), flip=flip, crop_padding=crop_padding
        )
        optimizer = self.optimizer(surrogate, trained, seed)
        engine = run.engine(module, optimizer, self.schedule(optimizer, num_steps), clip_norm=config.clip_norm)
        training = Training(
            run=run, engine=engine, batches=batches, transfer=transfer, surrogate=surrogate, teacher=teacher,
            num_steps=num_steps, batch_size=config.batch_size, seed=seed, passes=passes, hooks=hooks,
        )  # fmt: skip
        training.objective = self.objective(training)
        return training

    # --- what an attack says

    @abstractmethod
    def objective(self, training: Training) -> Objective:
        """Called once, before the first step: what the loss of each batch will be."""

    def images(self, dataset: Dataset, seed: int) -> Part:
        """What the attacker has."""
        return substitute_subset(dataset, self.config.substitute_size, seed=seed)

    def transfer_set(
        self, victim: Victim, part: Part, surrogate: nn.Module, run: Run, *, seed: int, flip: bool
    ) -> TransferSet:
        """Which of these images it trains on, and what it knows of them: all, and the victim's labels.

        surrogate: as it begins. Called by all processes; all get the same.
        """
        answers_NM = answer_table(victim, part, run.device, self.answers, flip=flip)
        return TransferSet(part=part, answers_NM=answers_NM, victim_queries=len(part) * answers_NM.shape[1])

    def answers(self, logits_BK: Tensor) -> Tensor:
        """What it takes of the victim's logits: labels (B,), or scores (B, K)."""
        return logits_BK.argmax(dim=1)

    @property
    def asks(self) -> bool:
        """Whether it asks the victim about its images."""
        return True

    def asking(self, victim: Victim, part: Part) -> TransferSet:
        """All images, of which the victim says in every batch what they are as augmented."""
        queries = self.config.steps(len(part)) * self.config.batch_size
        return TransferSet(
            part=part, answers_NM=None, victim_queries=queries, ask=lambda x_BCHW: self.answers(victim(x_BCHW))
        )

    def begin(self, surrogate: nn.Module, seed: int) -> None:
        """Changes the surrogate, in place, before anything is trained."""

    def zeros(self, surrogate: nn.Module) -> Mapping[nn.Parameter, Tensor]:
        """Where parameters are 0 and stay 0: bool masks like them."""
        return {}

    def module(self, surrogate: nn.Module, default_layer: str | None) -> nn.Module:
        """What the engine trains: the surrogate, or a module around it."""
        return surrogate

    def trained(self, surrogate: nn.Module) -> list[nn.Parameter]:
        """Which parameters of the surrogate; the others stay."""
        return list(surrogate.parameters())

    def optimizer(self, surrogate: nn.Module, trained: list[nn.Parameter], seed: int) -> Optimizer:
        """SGD with the configuration's settings."""
        config = self.config
        return torch.optim.SGD(
            trained, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def schedule(self, optimizer: Optimizer, num_steps: int) -> LRScheduler:
        """The cosine schedule."""
        return CosineAnnealingLR(optimizer, T_max=int(self.period * num_steps))

    def passes(self, module: nn.Module, x_1CHW: Tensor, trained: list[nn.Parameter]) -> Passes:
        """Of one image of a step; called before the first."""
        return training_passes(module, x_1CHW, trained)


def label_loss(training: Training) -> Objective:
    """Cross-entropy with labels, or with distributions: the mean over the batch."""

    def of_batch(t: int, batch: Batch, answers_B: Tensor) -> LossOf:
        def loss(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
            logits_BK, wanted_B = training.engine.forward(batch.x_BCHW[rows]).float(), answers_B[rows]
            y_B = wanted_B if wanted_B.ndim == 1 else wanted_B.argmax(1)
            return F.cross_entropy(logits_BK, wanted_B), {"fidelity/agreement_batch": agreement(logits_BK, y_B)}

        return loss

    return of_batch


def agreement(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """Share of samples with the label, 0-dim."""
    return (logits_BK.detach().argmax(1) == y_B).float().mean()


def cut_layer(surrogate: nn.Module, layer: str | None, default_layer: str | None) -> str:
    """The layer set as attack.layer, or the architecture's usual cut. Raises UserError where there is neither."""
    if found := layer or default_layer:
        return found
    inner = surrogate.get_submodule("backbone") if hasattr(surrogate, "backbone") else surrogate
    names = [name for name, _ in inner.named_modules() if name]
    raise UserError(
        f"attack.layer is not set and this architecture has no usual cut; choose one of {', '.join(names[:40])}"
    )
