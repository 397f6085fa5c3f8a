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
    """Pairs, each from its own training image of the victim."""
    pairs: str = "default"
    """How a seed is perturbed: "default" maximises the cross-entropy with the victim's own label, "original" is the
    loss of the authors' notebook, which sends all outputs away from a far target."""
    epsilon: float | None = None
    """Radius of the Linf ball; None: 8/255 in pixel units (default) or 0.06 in normalised units (original)."""
    step: float | None = None
    """Size of a step in the units of epsilon; None: 2/255 (default) or 0.01 (original)."""
    steps: int = 50
    """Steps of the search."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for the search in MiB; pairs are searched in as many chunks as that takes, with the same result."""
    released_port: list[str] = field(default_factory=list)
    """Defects of the released port to bring back, for comparison with its numbers: train_mode_verification (batch
    statistics and dropout, for victim and suspect), shift_on_seeds (the search looks at the seeds, so its score is 0
    whatever it tries and the seeds stay as they are), halves_as_pairs (the first half of the perturbed images is paired
    with the second half, not with its seeds), one_minus_ddm (1 - DDM similarity is reported), ddm_as_ddv (DDM is
    reported under the name of DDV)."""

    def check(self) -> None:
        """Raises UserError for sizes out of range, names that are not known, and halves of an odd number of pairs."""
        check_names("defense.pairs", [self.pairs], "default", "original")
        check_at_least_1("defense", self, "num_pairs", "steps", "memory_mb")
        for key in ("epsilon", "step"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise UserError(
                    f"defense.{key}={value} must be greater than 0, or null for the default of {self.pairs}"
                )
        defects = ("train_mode_verification", "shift_on_seeds", "halves_as_pairs", "one_minus_ddm", "ddm_as_ddv")
        check_names("defense.released_port", self.released_port, *defects)
        if "halves_as_pairs" in self.released_port and self.num_pairs % 2:
            raise UserError(
                f"defense.num_pairs={self.num_pairs} must be even with defense.released_port=[halves_as_pairs]"
            )
