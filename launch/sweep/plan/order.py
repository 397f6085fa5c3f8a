"""Which rows come first: every value of every axis is tried once before the rest, so that mistakes show at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launch.sweep.plan.plan import Plan
from rnet.errors import UserError


def early_first(rows: Sequence[Mapping[str, str]]) -> tuple[list[int], int]:
    """The order in which rows are tried (by index), and how many of them it takes to see each value once.

    Seeds are passed over. Rows with the most new values go first: the first of each dataset, attack, defence and model
    together. The others keep their order.
    """
    several: dict[str, set[str]] = {}
    for row in rows:
        for axis, value in row.items():
            several.setdefault(axis, set()).add(value)
    axes = [axis for axis, values in several.items() if len(values) > 1 and axis.rpartition(".")[2] != "seed"]
    unseen = {axis: set(several[axis]) for axis in axes}
    first = dict.fromkeys(range(1))  # of equal settings there is a first row, too
    for wanted in range(len(axes), 0, -1):
        for number, row in enumerate(rows):
            new = [axis for axis in axes if row[axis] in unseen[axis]]
            if len(new) >= wanted:
                first[number] = None
                for axis in new:
                    unseen[axis].discard(row[axis])
        if not any(unseen.values()):
            break
    return [*first, *(number for number in range(len(rows)) if number not in first)], len(first)


def cells_of_first(plan: Plan, limit: int) -> set[int]:
    """The cells of the first rows, in the order in which rows are tried, with all that they need. Raises UserError."""
    if limit < 1:
        raise UserError(f"--limit {limit} leaves nothing to submit; give 1 or more rows")
    order, _ = early_first([row.values for row in plan.rows])
    needed: set[int] = set()
    for number in order[:limit]:
        row = plan.rows[number]
        needed.update(row.cells.values(), row.negatives)
    return set(plan.with_parents(needed))
