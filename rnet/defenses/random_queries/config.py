"""The random queries' hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.defenses.config import DefenseConfig
from rnet.defenses.sizes import check_sizes


@dataclass(frozen=True, kw_only=True)
class RandomQueriesConfig(DefenseConfig):
    """How many clean images are used."""

    name: str = "random"
    num_queries: int = 100
    """Test images, drawn without replacement."""
    batch_size: int | None = field(default=None, metadata={"execution_only": True})
    """Images sent to a model at once; null for 256 small ones, or fewer large ones."""

    def check(self) -> None:
        """Raises UserError for sizes that are too small."""
        check_sizes(self.num_queries, self.batch_size)
