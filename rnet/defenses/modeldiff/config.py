"""ModelDiff's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.config.checks import check_at_least_1, check_names
from rnet.defenses.config import DefenseConfig
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ModelDiffConfig(DefenseConfig):
    """Hyperparameters of ModelDiff."""

    name: str = "modeldiff"
    num_pairs: int = 100
    """Seeds, each perturbed once."""
    images: str = "train"
    """What seeds are: "train" (the victim's training images) or "test" images."""
    pairs: str = "default"
    """How a seed is perturbed: "default" maximises the cross-entropy with the victim's own label; "original" is the
    loss of the authors' notebook, which sends all outputs away from a far target; "search" is the black-box search of
    the paper: pixels of single images are moved while that raises the score of all images together."""
    epsilon: float | None = None
    """Radius of the Linf ball, or how far "search" moves a pixel at once; None: 8/255 in pixel units (default), 0.06
    (original) or 0.2 (search) in normalised units."""
    step: float | None = None
    """Size of a gradient step in the units of epsilon; None: 2/255 (default) or 0.01 (original)."""
    steps: int | None = None
    """Gradient steps, or moves that "search" tries; None: 50, or 1000 for search."""
    goal: str = "distance_and_diversity"
    """What "search" raises: "distance_and_diversity" (the mean shift of the outputs times the mean distance between
    them) or "diversity" (the second only)."""
    box: bool = True
    """Images of "search" stay in [0, 1]; those of the gradients always do."""
    partners: str = "seeds"
    """What a perturbed image is paired with: its own "seeds", or "halves": the first half of the perturbed images is
    paired with the second half and the seeds are forgotten."""
    model_mode: str = "eval"
    """How victim and suspects answer: "eval", or "train" (batch statistics and dropout), for comparison with programs
    that forget to leave it; then dropout makes the victim differ from itself, and suspects must show their weights."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for the search in MiB; pairs are searched in as many chunks as that takes, with the same result."""

    def check(self) -> None:
        """Raises UserError for sizes out of range, names that are not known, and settings that nothing reads."""
        check_names("defense.pairs", [self.pairs], "default", "original", "search")
        check_names("defense.images", [self.images], "train", "test")
        check_names("defense.goal", [self.goal], "distance_and_diversity", "diversity")
        check_names("defense.partners", [self.partners], "seeds", "halves")
        check_names("defense.model_mode", [self.model_mode], "eval", "train")
        check_at_least_1("defense", self, "num_pairs", "memory_mb")
        if self.steps is not None:
            check_at_least_1("defense", self, "steps")
        for key in ("epsilon", "step"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise UserError(
                    f"defense.{key}={value} must be greater than 0, or null for the default of {self.pairs}"
                )
        if self.pairs != "search" and (self.goal, self.box) != ("distance_and_diversity", True):
            raise UserError(f"defense.goal and defense.box are read by defense.pairs=search, not by {self.pairs}")
        if self.pairs == "search" and self.step is not None:
            raise UserError(f"defense.step={self.step} is not read by defense.pairs=search; set defense.epsilon")
        if self.partners == "halves" and self.num_pairs % 2:
            raise UserError(f"defense.num_pairs={self.num_pairs} must be even with defense.partners=halves")
