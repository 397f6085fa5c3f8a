"""AKH's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.config.checks import check_names
from rnet.defenses.config import DefenseConfig
from rnet.defenses.sizes import check_sizes


@dataclass(frozen=True, kw_only=True)
class AKHConfig(DefenseConfig):
    """How many mistakes are used."""

    name: str = "akh"
    num_queries: int = 100
    """Mistakes to use; if the victim makes fewer, all of them are used, and fewer than 10 are an error."""
    fill: str = "train"
    """What follows test images that the victim gets wrong if there are too few: "train" (training images that it gets
    wrong) or "cutmix" (mixtures of the wrong test images and their mirror images, as in QuRD's program)."""
    batch_size: int | None = field(default=None, metadata={"execution_only": True})
    """Images sent to a model at once; null for 256 small ones, or fewer large ones."""

    def check(self) -> None:
        """Raises UserError for sizes that are too small, and for names that are not known."""
        check_names("defense.fill", [self.fill], "train", "cutmix")
        check_sizes(self.num_queries, self.batch_size)
