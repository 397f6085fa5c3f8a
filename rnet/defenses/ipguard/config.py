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
    """Fingerprint queries, each from its own image."""
    images: str = "train"
    """What queries start from: "train" (the victim's training images) or "test" images."""
    stop: str = "margin"
    """Where a query ends: "margin" (class j beats class i by k, no third class above i) or "flip" (with the first step
    that is made from a point labelled j, as in QuRD's program). The rule decides how far queries lie behind the
    boundary, and so the matching rates: report it."""
    k: float = 10.0
    """Margin on the logits by which class j must beat class i. It depends on the scale of the victim's logits."""
    target: str = "least_likely"
    """Class j: "least_likely" (lowest logit, the paper's L), "random" (any class but i, the paper's R) or "any" (any
    class, i too, as in QuRD's program: with j = i the query stays the image)."""
    learning_rate: float = 0.01
    """Adam's step size in the units of `units`."""
    units: str = "pixels"
    """What steps are measured in: "pixels" in [0, 1], or "normalised" (multiples of a channel's standard deviation)."""
    adam: str = "torch"
    """Whose epsilon Adam has: "torch" (1e-8 after the bias correction) or "keras" (1e-7 before it)."""
    rebuild_adam: bool = False
    """A new Adam at every step: it knows one gradient only, so a step is learning_rate by the gradient's sign."""
    box: bool = True
    """Queries stay in [0, 1]."""
    steps: int = 1000
    """Most Adam steps of a query."""
    suspect_mode: str = "eval"
    """How suspects answer: "eval", or "train" (batch statistics and dropout), for comparison with programs that forget
    to leave it; then even the victim misses some of its own labels, and suspects must show their weights."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for the search in MiB; queries are searched in as many chunks as that takes, with the same result."""

    def check(self) -> None:
        """Raises UserError for sizes and rates out of range, and for names that are not known."""
        check_at_least_1("defense", self, "num_queries", "steps", "memory_mb")
        if not self.learning_rate > 0:
            raise UserError(f"defense.learning_rate={self.learning_rate} must be greater than 0")
        if not self.k >= 0:
            raise UserError(f"defense.k={self.k} must not be negative; a query must end in class j, not before it")
        check_names("defense.images", [self.images], "train", "test")
        check_names("defense.stop", [self.stop], "margin", "flip")
        check_names("defense.target", [self.target], "least_likely", "random", "any")
        check_names("defense.units", [self.units], "pixels", "normalised")
        check_names("defense.adam", [self.adam], "torch", "keras")
        check_names("defense.suspect_mode", [self.suspect_mode], "eval", "train")
