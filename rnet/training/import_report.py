"""What is said of a victim at its import: each thing that decides its function, its value, and who said so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnet.data.images import Dataset
from rnet.models.classifier import Classifier
from rnet.models.origin import ASSUMED, GIVEN, READ, Fact, Origin


def import_report(origin: Origin, dataset: Dataset, model: Classifier, names_changed: str) -> dict[str, Any]:
    """By subject {"value", "how", "from"}, and "notes". names_changed: what was done to the names in the file."""
    facts = {name: dict(fact) for name, fact in origin.facts.items()}
    for key, buffer in (("mean", model.mean), ("std", model.std)):
        if facts[key]["value"] is None:
            facts[key]["value"] = [round(value, 6) for value in buffer.flatten().tolist()]
    order, notes = _class_order(origin, dataset)
    changed = {"value": names_changed or "none", "how": READ, "from": "the file"}
    notes = [*origin.notes, *notes, *_zero_weights(model)]
    return {**facts, "class order": order, "names changed": changed, "notes": notes}


def report_text(file: str, report: Mapping[str, Any]) -> str:
    """The report as a block of lines."""
    lines = [f"imported {file}"]
    for name, fact in report.items():
        if name != "notes":
            lines.append(f"  {name:14} {shown_value(fact['value'])}   [{fact['how']}: {fact['from']}]")
    return "\n".join([*lines, *(f"  note: {note}" for note in report["notes"])])


def _class_order(origin: Origin, dataset: Dataset) -> tuple[Fact, list[str]]:
    """How classes are numbered, and a note where the publisher's names are the data set's in another order."""
    config, names = origin.dataset, list(dataset.class_names)
    assert config is not None
    said = next((one for one in origin.published if one.class_names), None)
    if config.class_map:
        return {"value": "class map", "how": GIVEN, "from": f"dataset.class_map={config.class_map}"}, []
    order = config.class_order
    if order != "alphabetical":
        return {"value": order, "how": GIVEN, "from": "dataset.class_order"}, []
    if said is not None and names and said.class_names == names:
        return {"value": order, "how": READ, "from": f"the class names of {said.where}"}, []
    fact = {
        "value": order if names else "the data set's",
        "how": ASSUMED,
        "from": "rnet's own; else dataset.class_order",
    }
    if said is not None and names and sorted(said.class_names) == sorted(names):
        first = next(
            index for index, (ours, theirs) in enumerate(zip(names, said.class_names, strict=True)) if ours != theirs
        )
        theirs = said.class_names[first]
        return fact, [
            f"class order: class {first} is {names[first]!r} here, and {theirs!r} in {said.where}; a file of its names "
            f"is a dataset.class_map"
        ]
    return fact, []


def _zero_weights(model: Classifier) -> list[str]:
    """A note on matrices and filters that are zero throughout, which no training leaves behind."""
    weights = {name: tensor for name, tensor in model.export_state().items() if tensor.ndim >= 2}
    zero = [name for name, tensor in weights.items() if not tensor.any()]
    if not zero:
        return []
    more = f" and {len(zero) - 3} more" if len(zero) > 3 else ""
    shown = f"{', '.join(zero[:3])}{more}"
    return [f"{len(zero)} of {len(weights)} weights are zero throughout: {shown}; is the file what was trained?"]


def shown_value(value: Any) -> str:
    """The value of a fact, for people."""
    if isinstance(value, list):
        return ", ".join(f"{one:.4g}" if isinstance(one, float) else str(one) for one in value) or "none"
    return str(value)
