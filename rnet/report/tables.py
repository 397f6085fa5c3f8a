"""The tables of a paper by name, each made from a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rnet.errors import UserError, unknown_name
from rnet.report.defender import negative_models, separations, thresholds
from rnet.report.effectiveness import effectiveness, verdicts
from rnet.report.models import efficiency, fidelity
from rnet.report.records import Study
from rnet.report.rows import rows
from rnet.report.table import Table

TABLES: Mapping[str, Callable[[Study], Table]] = {
    "fidelity": fidelity,
    "effectiveness": effectiveness,
    "verdicts": verdicts,
    "efficiency": efficiency,
    "separation": separations,
    "negatives": negative_models,
    "thresholds": thresholds,
    "rows": rows,
}
"""In the order in which they are shown."""

NEED_SCORES = ("effectiveness", "verdicts", "separation", "negatives", "thresholds")
"""What a study that ends before its verify stages does not have."""


def make_tables(study: Study, names: Sequence[str] = ()) -> list[Table]:
    """The tables of these names, in their order; without names all that the study can have. Raises UserError."""
    tested = any(trial.test_id for trial in study.trials)
    check_names(names)
    for name in names:
        if name in NEED_SCORES and not tested:
            raise UserError(f"--table={name} needs scores, but there are no verify stages here; take another table")
    asked = names or [name for name in TABLES if tested or name not in NEED_SCORES]
    return [TABLES[name](study) for name in dict.fromkeys(asked)]


def asked_for(names: Sequence[str], kind: str, out: Path | None) -> list[str]:
    """The tables that a command shows: those named, else all; of CSV on the screen only the rows. Raises UserError."""
    check_names(names)
    return [*names] if names or kind != "csv" or out is not None else ["rows"]


def check_names(names: Sequence[str]) -> None:
    """Raises UserError for a name that is no table's."""
    for name in names:
        if name not in TABLES:
            raise unknown_name("--table", name, TABLES)
