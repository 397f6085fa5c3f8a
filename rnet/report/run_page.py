"""The page and the tables of one stage of a store, finished or not: what it found, its curves, its settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnet.config.documents import content_id, flattened, read_document
from rnet.errors import UserError
from rnet.figures.drawing import Drawing
from rnet.models.published import class_names_in
from rnet.report.drawn import curves_of, logged
from rnet.report.origin import made_by
from rnet.report.page import Page, Section
from rnet.report.table import Column, Table
from rnet.stages.graph import STAGE_NAMES, hyperparameters
from rnet.stages.store import read_result
from rnet.storage.json_files import read_information

LABEL = re.compile(rf"(?:{'|'.join(STAGE_NAMES)})/[0-9a-f]+")
"""How a stage is named: STAGE/ID."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """A page and the tables that other formats have of it."""

    page: Page
    tables: list[Table]


def report_of_run(root: Path, label: str) -> RunReport:
    """Of the stage STAGE/ID in the store. Raises UserError where there is none, or its files are damaged."""
    folder = root / label
    if not LABEL.fullmatch(label) or not (folder / "config.yaml").exists():
        raise UserError(f"{label!r} is no stage in {root}; write STAGE/ID, as `rnet status` lists them, and --root")
    document = read_document(folder / "config.yaml")
    status = read_information(folder / "status.json")
    result = read_result(folder)
    tables = [
        _pairs("result", "Result", result or {}), _pairs("settings", "Settings", hyperparameters(document)),
        _pairs("run", "The run itself", {key: value for key, value in status.items() if key != "versions"}),
    ]  # fmt: skip
    if names := class_names_in(folder / "model.safetensors"):
        tables.append(_classes(names))
    tests = _tests_of(root, folder.name) if label.startswith("attack/") else None
    why = "" if result is not None else _why_open(status)
    curves = _curves(folder, label, why)
    versions = ", ".join(f"{name} {number}" for name, number in status.get("versions", {}).items())
    page = Page(
        title=label, kind=f"rnet report of one {label.partition('/')[0]} stage",
        verdict=_sentence(label.partition("/")[0], document, result, why), incomplete=[why] if why else [],
        sections=[
            *([Section(title="Curves over training", figures=[curves])] if curves else []),
            Section(title="Tables", tables=[*([tests] if tests else []), *tables]),
        ],
        reproduce=[
            ("Configuration, which the id is a hash of", (folder / "config.yaml").read_text()),
            ("Computed by", versions or "not recorded"), ("This page made by", made_by()),
            ("Id in the store", label),
        ],
    )  # fmt: skip
    return RunReport(page=page, tables=[*([tests] if tests else []), *tables])


def _why_open(status: Mapping[str, Any]) -> str:
    said = f"{status.get('state', 'no state is recorded')}"
    if "total" in status:
        said += f" at step {status.get('step', 0)} of {status['total']}"
    return f"{said}: {status['error']}" if status.get("error") else said


def _curves(folder: Path, label: str, why: str) -> Drawing | None:
    lines = [{**line, "run": label} for line in logged(folder / "log.jsonl")]
    if lines and why:
        lines.append({"curve": "all curves", "run": label, "missing": f"the run is not finished, {why}"})
    return curves_of("curves", "Curves over training", lines)


def _sentence(stage: str, document: Mapping[str, Any], result: Mapping[str, Any] | None, why: str) -> str:
    if result is None:
        return f"None: this stage is not finished ({why})."
    if stage == "train":
        return f"A victim with a test accuracy of {_percent(result.get('accuracy'))}. Nothing is judged in this stage."
    if stage == "attack":
        name = document["attack"]["name"]
        return (
            f"A suspect made by {name}: test accuracy {_percent(result.get('accuracy'))}, the victim's is "
            f"{_percent(result.get('victim_accuracy'))}; they agree on {_percent(result.get('agreement'))} of the test "
            "images. rnet report KEY=VALUE... judges it."
        )
    if stage == "verify":
        scores = ", ".join(f"{name} {value:.4g}" for name, value in result.get("scores", {}).items())
        return f"None: scores alone ({scores or 'none'}). A verdict needs negatives: rnet report KEY=VALUE..."
    return f"A fingerprint by {document['defense']['name']}. Nothing is judged in this stage."


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"


def _tests_of(root: Path, name: str) -> Table:
    """The scores of the suspect that are in the store."""
    lines = []
    for path in sorted(root.glob("verify/*/config.yaml")):
        document = read_document(path)
        if content_id(document["suspect"]) != name:
            continue
        found = read_result(path.parent)
        known = {"defense": document["fingerprint"]["defense"]["name"], "verify_id": path.parent.name}
        scores = (found or {}).get("scores", {})
        lines += [{**known, "metric": metric, "score": value} for metric, value in scores.items()]
        if found is None:
            lines.append({**known, "missing": "missing: not finished"})
    columns = [Column(name="defense"), Column(name="metric"), Column(name="score", kind="number")]
    return Table(
        name="tests", title="Tests of this suspect", lines=lines,
        columns=[*columns, Column(name="verify_id"), Column(name="missing", optional=True)],
    )  # fmt: skip


def _classes(names: Sequence[str]) -> Table:
    return Table(
        name="classes", title="Classes", columns=[Column(name="class", kind="count"), Column(name="name")],
        lines=[{"class": number, "name": name} for number, name in enumerate(names)],
    )  # fmt: skip


def _pairs(name: str, title: str, values: Mapping[str, Any]) -> Table:
    columns = [Column(name="name"), Column(name="value")]
    return Table(
        name=name, title=title, columns=columns,
        lines=[{"name": key, "value": _written(value)} for key, value in flattened(values).items()],
    )  # fmt: skip


def _written(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
