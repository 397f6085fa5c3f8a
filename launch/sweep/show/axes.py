"""Which values of a sweep's axes a cell is about."""

from __future__ import annotations

from launch.sweep.plan.names import cell_axes
from launch.sweep.plan.plan import Plan
from rnet.stages.graph import ingredients


def own_axes(plan: Plan) -> list[dict[str, str]]:
    """By cell, the values of the axes that its stage reads; of a negative, the attack is independent."""
    read = {stage: {*ingredients(stage), "seed"} for stage in {cell.stage for cell in plan.cells}}
    found = []
    for cell, axes in zip(plan.cells, cell_axes(plan), strict=True):
        own = {axis: value for axis, value in axes.items() if _group(axis) in read[cell.stage]}
        if "attack" in read[cell.stage] and "attack" not in own and "attack" in plan.rows[0].values:
            own["attack"] = _attack(plan, cell.settings)
        found.append(own)
    return found


def _group(axis: str) -> str:
    return axis.partition(".")[0].removesuffix("_preset")


def _attack(plan: Plan, settings: tuple[int, ...]) -> str:
    return next(plan.settings[index]["attack"]["name"] for index in settings if "attack" in plan.settings[index])
