"""The configuration of a given suspect. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.attacks.config import AttackConfig
from rnet.attacks.imported.registry import FUNCTIONS
from rnet.config.checks import check_at_least_1
from rnet.errors import UserError, unknown_name
from rnet.models.config import ModelConfig
from rnet.models.registry import MODELS

ANSWERS = ("labels", "probabilities", "log_probabilities", "logits")


@dataclass(frozen=True, kw_only=True)
class ImportConfig(AttackConfig):
    """A suspect from a file of weights, or one that answers questions: exactly one of weights and function."""

    name: str = "import"
    """The attack's name."""
    weights: str | None = field(default=None, metadata={"file": True})
    """The suspect's file of weights: safetensors, or what torch.save wrote."""
    weights_key: str | None = field(default=None, metadata={"hashed_if_set": True})
    """Which set of weights, where the file holds several, e.g. model_ema."""
    model: ModelConfig | None = field(default=None, metadata={"hashed_if_set": True, "registry": MODELS})
    """The suspect's architecture and what else an imported model has, as in model.*; null takes what the file says
    of itself, and else the victim's."""
    num_classes: int | None = field(default=None, metadata={"hashed_if_set": True})
    """How many classes the suspect tells apart; null for as many as the data set has."""
    function: str | None = field(default=None, metadata={"hashed_if_set": True, "registry": FUNCTIONS})
    """package.module:function that answers for the suspect: float32 pixels (B, C, H, W) in [0, 1], on the CPU, to (B,)
    labels or (B, classes) numbers."""
    answers: str | None = field(default=None, metadata={"hashed_if_set": True})
    """What the function answers: labels, probabilities, log_probabilities or logits; null recognises it."""
    batch_size: int = field(default=256, metadata={"execution_only": True})
    """The most images that the function is asked about in one call."""
    derived: bool | None = field(default=None, metadata={"hashed_if_set": True})
    """Whether the suspect derives from the victim, where that is known; only the areas under ROC curves use it."""

    def check(self) -> None:
        """Raises UserError unless one of weights and function is given, with settings of its own only."""
        if (self.weights is None) == (self.function is None):
            given = "neither is" if self.weights is None else "both are"
            raise UserError(
                f"attack=import takes attack.weights=FILE or attack.function=package.module:function, and {given} set"
            )
        of_weights = ("weights_key", "model")
        of_function = ("answers",)
        for key in of_weights if self.function else of_function:
            if getattr(self, key) is not None:
                other = "weights" if self.function else "function"
                raise UserError(f"attack.{key} has no effect without attack.{other}; take it out")
        if self.function is not None and ":" not in self.function:
            raise UserError(f"attack.function={self.function!r} must read package.module:function, like mylab.api:ask")
        if self.answers is not None and self.answers not in ANSWERS:
            raise unknown_name("attack.answers", self.answers, ANSWERS)
        if self.model is not None:
            if self.model.weights is not None or self.model.weights_key is not None:
                raise UserError("attack.model.weights is written attack.weights, and so is the key: attack.weights_key")
            self.model.check()
        check_at_least_1("attack", self, "batch_size")
        if self.num_classes is not None and self.num_classes < 2:
            raise UserError(f"attack.num_classes={self.num_classes} must be at least 2, or null for the data set's")
