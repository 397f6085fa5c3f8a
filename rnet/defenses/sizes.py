"""How few queries say nothing."""

from __future__ import annotations

from rnet.errors import UserError

FEWEST_QUERIES = 10
"""With fewer queries than this a share or a correlation says nothing: extraction refuses."""


def check_sizes(num_queries: int, batch_size: int | None) -> None:
    """Raises UserError for too few queries and an empty batch."""
    if num_queries < FEWEST_QUERIES:
        raise UserError(f"defense.num_queries={num_queries} is too small; give at least {FEWEST_QUERIES}")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"defense.batch_size={batch_size} must be at least 1")
