"""The contract of an attack: hyperparameters in the constructor, data in the call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from rnet.attacks.config import AttackConfig
from rnet.data.images import Dataset
from rnet.models.black_box import BlackBox
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.training.config import TrainConfig
from rnet.training.loop import Run


@dataclass(frozen=True, kw_only=True)
class AttackContext:
    """What the attacker is given besides the data.

    victim_forward: the stolen model as a function of pixels, to be asked by all processes together (a frozen model, or
    one whose parameters they share). copy_of_victim: a new copy of it in eval mode, which belongs to the caller.
    build: a freshly initialised model of the suspect's architecture. Both may be on the CPU: run.engine puts what it
    trains on run.device. train: how the victim was trained. default_layer: its usual cut. seed: the attack's own.
    """

    copy_of_victim: Callable[[], Classifier]
    victim_forward: Callable[[Tensor], Tensor]
    build: Callable[[int], Classifier]
    train: TrainConfig
    default_layer: str | None
    run: Run
    seed: int


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """What comes out: a model, whether it derives from the victim, and what it cost (counts, not seconds).

    derived: None where nobody knows. about: what else the result says of it.
    """

    model: Classifier | BlackBox
    derived: bool | None
    cost: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


class Attack(ABC):
    """Turns a victim into a suspect. `check` refuses what cannot work before anything is trained or written.

    config: annotate it with your own dataclass; its fields are the keys of the command line.
    """

    config: AttackConfig
    trains: ClassVar[bool] = True
    """Whether config.batch_size is that of a training, which processes share."""

    def __init__(self, config: Any) -> None:
        config.check()
        self.config = config

    @property
    def name(self) -> str:
        """What tables and ids call it; part of what its random draws depend on."""
        return self.config.name

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:  # noqa: B027 - optional
        """Raises UserError if this attack cannot run on such a model and dataset.

        blueprint: an untrained model of the suspect's architecture.
        """

    def architecture(self, victim: ModelConfig) -> ModelConfig:
        """What the suspect is built as, where that is not the victim's architecture."""
        return victim

    def classes(self, dataset: Dataset) -> int:
        """How many classes the suspect tells apart."""
        return dataset.num_classes

    @abstractmethod
    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """The suspect; the victim is not written to."""
