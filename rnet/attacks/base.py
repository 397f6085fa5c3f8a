"""The contract of an attack: hyperparameters in the constructor, data in the call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from rnet.data.images import Dataset, Part
from rnet.models.classifier import Classifier
from rnet.parallel.collectives import map_rows
from rnet.training.config import TrainConfig
from rnet.training.loop import Run


@dataclass(frozen=True, kw_only=True)
class AttackContext:
    """What the attacker is given besides the data.

    victim_forward: the stolen model as a function of pixels, to be asked by all processes together (a frozen model, or
    one whose parameters they share). copy_of_victim: a new copy of it in eval mode, which belongs to the caller.
    build: a freshly initialised model of the same architecture. Both may be on the CPU: run.engine puts what it trains
    on run.device. train: how the victim was trained. default_layer: its usual cut. seed: the attack's own.
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
    """What comes out: a model, whether it derives from the victim, and what it cost (counts, not seconds)."""

    model: Classifier
    derived: bool
    cost: dict[str, Any] = field(default_factory=dict)


class Attack(ABC):
    """Turns a victim into a suspect. `check` refuses what cannot work before anything is trained or written."""

    name: ClassVar[str]

    def __init__(self, config: Any) -> None:
        config.check()
        self.config = config

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:  # noqa: B027 - optional
        """Raises UserError if this attack cannot run on such a model and dataset."""

    @abstractmethod
    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """The suspect; the victim is not written to."""


@torch.no_grad()
def label_table(
    victim: Callable[[Tensor], Tensor], part: Part, device: torch.device, *, batch_size: int = 512
) -> Tensor:
    """The victim's labels for every image of a part, as is and mirrored: int64 (N, 2) on the device.

    Images are only ever mirrored, so this is the label of the image as augmented, computed once; each process asks for
    its share.
    """

    def labels(indices_N: Tensor) -> Tensor:
        found = []
        for indices_B in indices_N.split(batch_size):
            x_BCHW = part.pixels(indices_B, device)
            found.append(torch.stack([victim(x).argmax(dim=1) for x in (x_BCHW, x_BCHW.flip(-1))], dim=1))
        return torch.cat(found)

    return map_rows(labels, torch.arange(len(part)))
