"""IPGuard's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.config.checks import check_at_least_1, check_names
from rnet.defenses.config import DefenseConfig
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class IPGuardConfig(DefenseConfig):
    """Hyperparameters of IPGuard; the defaults are those of the paper with the margin most used since."""

    name: str = "ipguard"
    num_queries: int = 100
    """Fingerprint queries, each from its own training image of the victim."""
    k: float = 10.0
    """Margin on the logits by which class j must beat class i. It depends on the scale of the victim's logits."""
    target: str = "least_likely"
    """Class j: "least_likely" (lowest logit, the paper's L) or "random" (any class but i, the paper's R)."""
    learning_rate: float = 0.01
    """Adam's step size in pixel units."""
    steps: int = 1000
    """Most Adam steps of a query."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for the search in MiB; queries are searched in as many chunks as that takes, with the same result."""
    released_port: list[str] = field(default_factory=list)
    """Defects of the released port to bring back, for comparison with its numbers: train_mode_verification (batch
    statistics and dropout at verification), adam_rebuilt (a new Adam every step, so plain sign steps), no_box (queries
    leave [0, 1])."""

    def check(self) -> None:
        """Raises UserError for sizes and rates out of range, and for names that are not known."""
        check_at_least_1("defense", self, "num_queries", "steps", "memory_mb")
        if not self.learning_rate > 0:
            raise UserError(f"defense.learning_rate={self.learning_rate} must be greater than 0")
        if not self.k >= 0:
            raise UserError(f"defense.k={self.k} must not be negative; a query must end in class j, not before it")
        check_names("defense.target", [self.target], "least_likely", "random")
        check_names("defense.released_port", self.released_port, "train_mode_verification", "adam_rebuilt", "no_box")
