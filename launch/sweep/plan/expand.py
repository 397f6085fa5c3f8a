"""From a sweep file to its plan: rows of the final table, and the cells they share, each once."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.sweep.plan.names import cell_names
from launch.sweep.plan.order import early_first
from launch.sweep.plan.plan import Cell, Plan, Row
from launch.sweep.plan.resources import Shape, load_profile, make_shape
from launch.sweep.plan.source import source_of
from launch.sweep.plan.spec import Sweep, load_sweep
from rnet.config.components import GROUPS
from rnet.config.compose import config_folder
from rnet.config.documents import as_dict, content_id, plain, run_from_dict
from rnet.config.run import Configurations, RunConfig
from rnet.config.yaml_files import place_of, raw
from rnet.data.files.digest import looked_at_once
from rnet.errors import UserError
from rnet.stages.graph import GRAPH, Document, check_settings, document, ingredients, lineage, negative_settings

logger = logging.getLogger(__name__)

MOST_TESTS = 2_000_000
"""Rows times negatives."""


def make_plan(
    path: Path, changes: Sequence[str] = (), *, config_dir: Path | None = None, root: Path | None = None,
    keep: bool = True,
) -> Plan:  # fmt: skip
    """The plan of a sweep file; every configuration is resolved and every hyperparameter checked.

    root, keep: of rnet.data.files.digest.looked_at_once. Raises UserError for a row that cannot work, naming its axes.
    """
    started = time.monotonic()
    sweep = load_sweep(path, changes)
    folders = [config_folder(), *([config_dir] if config_dir else [])]
    builder = _Builder(sweep, config_dir)
    with looked_at_once(root, keep=keep):
        builder.build()
    return Plan(
        name=sweep.name, cluster=sweep.cluster, profile=raw(load_profile(sweep.cluster, folders)),
        cells=builder.cells, rows=builder.rows, shapes=list(builder.shapes), settings=builder.settings,
        early=builder.early, seconds=time.monotonic() - started, source=source_of(path, changes, config_dir),
    )  # fmt: skip


class _Builder:
    """Cells and rows as they are found."""

    def __init__(self, sweep: Sweep, config_dir: Path | None) -> None:
        self.sweep = sweep
        self.configs = Configurations(config_dir)
        self.cells: list[Cell] = []
        self.rows: list[Row] = []
        self.shapes: dict[Shape, int] = {}
        self.settings: list[dict[str, Any]] = []
        self.early = 0
        self._tests = 0
        self._rows_of: dict[tuple[int, ...], dict[str, str]] = {}
        self._documents: list[Document] = []
        self._indices: dict[tuple[str, str], int] = {}
        self._known: dict[tuple[Any, ...], int] = {}
        self._settings_of: dict[Any, int] = {}
        self._shape_of: dict[str, int] = {}

    def build(self) -> None:
        """Adds every row and its cells; those of the rows that are tried first stand before all others."""
        rows = list(self.sweep.rows())
        order, early = early_first(rows)
        for number in order[:early]:
            with self._naming(rows[number]):
                self._graph(self.configs.load(self.sweep.overrides(rows[number])), rows[number])
        self.early = len(self.cells)
        found: dict[int, Row] = {}
        for number in order:
            with self._naming(rows[number]):
                found[number] = self._row(rows[number])
        self.rows = [found[number] for number in range(len(rows))]
        self._warn_of_axes_without_effect()

    def _warn_of_axes_without_effect(self) -> None:
        for axis in self.sweep.axes:
            alike: dict[tuple[str, ...], set[tuple[int, ...]]] = {}
            for row in self.rows:
                others = tuple(value for name, value in row.values.items() if name != axis)
                alike.setdefault(others, set()).add((*row.cells.values(), *row.negatives))
            if len(alike) < len(self.rows) and all(len(cells) == 1 for cells in alike.values()):
                logger.warning("axis %s changes nothing that is computed until %s: its rows share their cells", axis,
                               self.sweep.until)  # fmt: skip

    @contextmanager
    def _naming(self, values: Mapping[str, str]) -> Iterator[None]:
        """Says in a UserError which row it is about."""
        try:
            yield
        except UserError as error:
            about = " ".join(f"{axis}={value}" for axis, value in values.items())
            named = [axis for axis in values if re.search(rf"(?<![\w.]){re.escape(axis)}(?![\w.])", str(error))]
            where = place_of(values[named[-1]]) if named else ""
            raise UserError(f"{where or f'{self.sweep.path}: '}the row {about}: {error}") from None

    def _row(self, values: dict[str, str]) -> Row:
        lines = self.sweep.overrides(values)
        config = self.configs.load(lines)
        cells = self._graph(config, values)
        own = lines[len(self.sweep.common) :]
        negatives = self._negatives(config, own, values) if self.sweep.until == "verify" else ()
        self._check_new(values, (*cells.values(), *negatives))
        return Row(values=values, cells=cells, negatives=negatives)

    def _check_new(self, values: dict[str, str], cells: tuple[int, ...]) -> None:
        """Raises UserError for a row that an earlier one is, with a number written in another way: 1, 01, 1.0."""
        known = self._rows_of.setdefault(cells, values)
        if known is not values:
            differing = [axis for axis, value in values.items() if value != known[axis]]
            if all(_numbers(values[axis]) == _numbers(known[axis]) is not None for axis in differing):
                pairs = " and ".join(f"{axis}={known[axis]} and {axis}={values[axis]}" for axis in differing)
                raise UserError(f"{pairs} are the same; take one out")

    def _graph(self, config: RunConfig, values: dict[str, str]) -> dict[str, int]:
        """The row's cells by stage, up to the sweep's last stage."""
        found: dict[str, int] = {}
        for stage in lineage(self.sweep.until):
            parents = tuple(found[parent] for parent in GRAPH[stage].parents.values())
            found[stage] = self._cell(stage, config, values, parents)
        return found

    def _negatives(self, config: RunConfig, own: tuple[str, ...], values: dict[str, str]) -> tuple[int, ...]:
        """The verify cells of the run's negatives, of the kinds and seeds that rnet.stages.graph gives."""
        if not config.negatives:
            return ()
        self._tests += config.negatives
        if self._tests > MOST_TESTS:
            raise UserError(
                f"negatives={config.negatives} for each of the rows so far makes more than {MOST_TESTS:,} tests of "
                f"negatives; lower negatives, or take values out of axes"
            )
        common = tuple(line for line in self.sweep.common if line.startswith("attack"))
        if common:
            raise UserError(f"set has {common[0]!r}, which negatives do not know; write it under cases")
        others = tuple(line for line in own if not line.startswith(("attack", "substitute")))
        found = []
        for settings in negative_settings(config):
            lines = (*others, "attack=independent", *(f"attack.{key}={value}" for key, value in settings.items()))
            resolved = self.configs.load((*self.sweep.common, *lines))
            found.append(self._graph(resolved, values)["verify"])
        return tuple(found)

    def _cell(self, stage: str, config: RunConfig, values: dict[str, str], parents: tuple[int, ...]) -> int:
        """The index of the cell, new or known."""
        key = self._ingredients(stage, config)
        if key in self._known:
            return self._known[key]
        check_settings(stage, config)
        found = document(stage, config, {self.cells[parent].stage: self._documents[parent] for parent in parents})
        cell_id = content_id(found)
        index = self._indices.setdefault((stage, cell_id), len(self.cells))
        if index == len(self.cells):
            self._documents.append(found)
            victim = self.cells[parents[0]].victim if parents else index
            shape = self._shape(stage, values, independent=stage == "attack" and config.attack.name == "independent")
            self.cells.append(Cell(stage, cell_id, parents, shape, victim, self._pieces(config)))
        self._known[key] = index
        return index

    def _ingredients(self, stage: str, config: RunConfig) -> tuple[Any, ...]:
        """What the stage can depend on. Equal components are one object."""
        values = (getattr(config, key) for key in ingredients(stage))
        return (stage, *(value if isinstance(value, str | int) else id(value) for value in values))

    def _pieces(self, config: RunConfig) -> tuple[int, ...]:
        """The indices of the pieces that make the configuration: one for each group, and one for the other keys."""
        values = vars(config)
        others = {key: plain(value) for key, value in values.items() if key not in GROUPS}
        pieces = [(id(values[group]), group) for group in GROUPS]
        for key in (*pieces, repr(others)):
            if key not in self._settings_of:
                self._settings_of[key] = len(self.settings)
                self.settings.append({key[1]: as_dict(values[key[1]])} if key in pieces else others)
        return tuple(self._settings_of[key] for key in (*pieces, repr(others)))

    def _shape(self, stage: str, values: dict[str, str], *, independent: bool) -> int:
        needs = self.sweep.needs(values, stage, independent=independent)
        key = repr(sorted(needs.items()))  # a value may be a list, which the shape refuses
        if key not in self._shape_of:
            shape = make_shape(needs)
            self._shape_of[key] = self.shapes.setdefault(shape, len(self.shapes))
        return self._shape_of[key]


def _numbers(text: str) -> list[float] | None:
    """The numbers of a text or of a list of them; None for other text."""
    try:
        return [float(one) for one in text.strip("[]").split(",")]
    except ValueError:
        return None


def check_deeply(plan: Plan) -> int:
    """Builds each attack's model once on its dataset, as the stages do before they start. Returns how many were.

    Seeds are left aside: they cannot make a configuration impossible. Raises UserError for the first that cannot work.
    """
    from rnet.stages.stages import check_attack  # brings torch, which planning does without

    done: set[str] = set()
    for index, cell in enumerate(plan.cells):
        if cell.stage in ("train", "attack"):
            config = run_from_dict(plan.configuration(cell))
            parts = [config.dataset, config.model, config.substitute, config.precision, config.engine]
            parts.append(config.attack if config.attack.seed is None else dataclasses.replace(config.attack, seed=0))
            if repr(parts) not in done:
                done.add(repr(parts))
                try:
                    check_attack(config)
                except UserError as error:
                    raise UserError(f"{plan.name}, {cell_names(plan)[index]}: {error}") from None
    return len(done)
