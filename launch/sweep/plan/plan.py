"""A sweep, expanded: cells, rows and resources, and how they are kept beside the store.

A cell is one stage with one content id: a folder of the store. Its parents come before it in the list. Nothing here
composes configurations, so that looking at a sweep is quick; expand.py makes plans.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.sweep.plan.resources import Shape
from rnet.errors import UserError, first_line
from rnet.stages.graph import STAGE_NAMES
from rnet.storage.json_files import names_in, read_json, write_json
from rnet.storage.shapes import NUMBER, TEXT_OR_NONE, fits


@dataclass(frozen=True, slots=True)
class Cell:
    """One stage to compute. parents, shape, settings: indices into the plan's lists; victim: that of its train cell."""

    stage: str
    id: str
    parents: tuple[int, ...]
    shape: int
    victim: int
    settings: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """Stage and id, for messages and as a key: train/0123456789abcdef."""
        return f"{self.stage}/{self.id}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: axis values and the cells (by index) with its suspect, its scores and its negatives'."""

    values: dict[str, str]
    cells: dict[str, int]
    negatives: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A sweep, expanded. cluster: the name of a profile; profile: its settings, as its file has them.

    settings: pieces of resolved configurations, {"dataset": {...}} and so on; cells share them.
    early: so many cells, the first, are one of each kind. seconds: how long planning took.
    names: of the cells, once somebody has asked for them (names.py). source: what it was made from (source.py).
    """

    name: str
    cluster: str
    profile: dict[str, Any]
    cells: list[Cell]
    rows: list[Row]
    shapes: list[Shape]
    settings: list[dict[str, Any]] = field(default_factory=list)
    early: int = 0
    seconds: float = 0.0
    source: dict[str, Any] = field(default_factory=lambda: {"digest": "", "changes": [], "config_dir": None})
    names: list[str] = field(default_factory=list, init=False, compare=False, repr=False)

    def configuration(self, cell: Cell) -> dict[str, Any]:
        """The cell's resolved configuration, as rnet.config.run.run_to_dict writes it."""
        return {key: value for index in cell.settings for key, value in self.settings[index].items()}

    def setting(self, cell: Cell, group: str) -> dict[str, Any]:
        """One group of the cell's resolved configuration."""
        found: dict[str, Any] = next(self.settings[i][group] for i in cell.settings if group in self.settings[i])
        return found

    def with_parents(self, cells: Iterable[int]) -> list[int]:
        """The cells and all that they are made from, by index, parents first."""
        needed = set(cells)
        for index in reversed(range(len(self.cells))):
            if index in needed:
                needed.update(self.cells[index].parents)
        return sorted(needed)

    def folder(self, root: Path, cell: Cell) -> Path:
        """The cell's folder in the store."""
        return root / cell.stage / cell.id


_AGAIN = "run rnet sweep submit again, with the same --root"
_CELL = {"stage": str, "id": str, "parents": [int], "shape": int, "victim": int, "settings": [int]}
_ROW = {"values": {str: (str, type(None))}, "cells": {str: int}, "negatives": [int]}
_SHAPE = {
    "name": str, "cluster": str, "profile": {"kind": str}, "settings": [dict], "seconds": NUMBER,
    "early": int, "shapes": [dict], "cells": [list], "rows": [list],
    "source": {"digest": str, "changes": [str], "config_dir": TEXT_OR_NONE},
}  # fmt: skip
_AS_THEY_ARE = ("name", "cluster", "profile", "settings", "early", "seconds", "source")


def done_cells(plan: Plan, root: Path) -> set[int]:
    """Indices of the cells whose result is in the store. One listing a stage, one look a folder found."""
    there = {stage: set(names_in(root / stage)) for stage in STAGE_NAMES}
    return {
        index
        for index, cell in enumerate(plan.cells)
        if cell.id in there[cell.stage] and os.path.exists(f"{root}/{cell.label}/result.json")  # pathlib is slow
    }


def plan_path(root: Path, name: str) -> Path:
    """Where a store keeps the plan that was submitted last under a sweep's name."""
    return root / "sweeps" / f"{name}.json"


def save_plan(plan: Plan, root: Path) -> Path:
    """Writes the plan to <root>/sweeps/<name>.json, where tasks and the other commands read it."""
    path = plan_path(root, plan.name)
    document = {
        **{name: getattr(plan, name) for name in _AS_THEY_ARE},
        "shapes": [dataclasses.asdict(shape) for shape in plan.shapes],
        "cells": [[getattr(cell, name) for name in Cell.__slots__] for cell in plan.cells],
        "rows": [[row.values, row.cells, row.negatives] for row in plan.rows],
    }
    write_json(path, document)
    return path


def read_plan(path: Path) -> Plan:
    """The plan that save_plan wrote. Raises UserError if there is none."""
    document = read_json(path)
    if document is None:
        raise UserError(f"no plan {path}; run rnet sweep submit first, with the same --root")
    if not fits(document, _SHAPE) or not all(
        fits(dict(zip(shape, listed, strict=False)), shape)
        for shape, lists in ((_CELL, document["cells"]), (_ROW, document["rows"]))
        for listed in lists
    ):
        raise UserError(f"{path} is no plan of this version of rnet; {_AGAIN}")
    try:
        plan = _plan_of(document)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is no plan of this version of rnet: {first_line(error)}; {_AGAIN}") from None
    if not _is_whole(plan):
        raise UserError(f"{path} is damaged: it names cells, shapes or settings that it does not have; {_AGAIN}")
    return plan


def _is_whole(plan: Plan) -> bool:
    """Whether all that its cells and rows point to is there, parents before their children."""
    shapes, settings = range(len(plan.shapes)), range(len(plan.settings))
    for index, cell in enumerate(plan.cells):
        known = cell.stage in STAGE_NAMES and re.fullmatch("[0-9a-f]{1,64}", cell.id)
        if not known or cell.shape not in shapes or any(number not in settings for number in cell.settings):
            return False
        if any(parent not in range(index) for parent in cell.parents) or cell.victim not in range(index + 1):
            return False
    cells = range(len(plan.cells))
    return all(
        "train" in row.cells and all(index in cells for index in (*row.cells.values(), *row.negatives))
        for row in plan.rows
    )


def _plan_of(document: dict[str, Any]) -> Plan:
    return Plan(
        name=document["name"], cluster=document["cluster"],
        settings=document["settings"], early=document["early"], seconds=document["seconds"], source=document["source"],
        profile=document["profile"], shapes=[Shape(**shape) for shape in document["shapes"]],
        cells=[Cell(stage, id_, tuple(parents), shape, victim, tuple(settings))
               for stage, id_, parents, shape, victim, settings in document["cells"]],
        rows=[Row(values, cells, tuple(negatives)) for values, cells, negatives in document["rows"]],
    )  # fmt: skip
