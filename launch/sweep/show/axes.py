"""Which values of a sweep's axes a cell is about."""

from __future__ import annotations

from launch.sweep.plan.names import cell_axes, reads
from launch.sweep.plan.plan import Plan


def own_axes(plan: Plan) -> list[dict[str, str]]:
    """By cell, the values of the axes that its stage reads; of a negative, the attack is independent."""
    found = []
    for cell, axes in zip(plan.cells, cell_axes(plan), strict=True):
        own = {axis: value for axis, value in axes.items() if reads(cell.stage, axis)}
        if reads(cell.stage, "attack") and "attack" not in own and "attack" in plan.rows[0].values:
            own["attack"] = plan.setting(cell, "attack")["name"]
        found.append(own)
    return found
