"""Configurations as the study that tables are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rnet.command.run import Runs
from rnet.command.verdicts import study_of
from rnet.config.run import RunConfig
from rnet.report.records import Study
from rnet.report.tables import make_tables
from rnet.stages.store import Store
from rnet.verdicts.examine import examine


def studied(configs: Sequence[RunConfig], store: Store) -> Study:
    """What `rnet verify` makes of them, every option called by its component's name."""
    groups = ("dataset", "model", "attack", "defense")
    chosen = [{group: getattr(config, group).name for group in groups} for config in configs]
    return study_of(examine(configs, store), Runs(configs=list(configs), chosen=chosen), store)


def separations(configs: Sequence[RunConfig], store: Store) -> list[Mapping[str, Any]]:
    """The lines of the table separation that have numbers."""
    (table,) = make_tables(studied(configs, store), ["separation"])
    return [line for line in table.lines if line.get("auc") is not None]
