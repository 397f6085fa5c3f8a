"""What is said of a victim at its import: each thing that decides its function, its value, and who said so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnet.data.images import Dataset
from rnet.models.class_names import listed, other_number, shared
from rnet.models.classifier import Classifier
from rnet.models.origin import ASSUMED, GIVEN, READ, Fact, Origin, called_classes


def import_report(origin: Origin, dataset: Dataset, model: Classifier, names_changed: str) -> dict[str, Any]:
    """By subject {"value", "how", "from"}, and "notes". names_changed: what was done to the names in the file."""
    facts = {name: dict(fact) for name, fact in origin.facts.items()}
    for key, buffer in (("mean", model.mean), ("std", model.std)):
        if facts[key]["value"] is None:
            facts[key]["value"] = [round(value, 6) for value in buffer.flatten().tolist()]
    names, order, notes = _classes(origin, dataset)
    changed = {"value": names_changed or "none", "how": READ, "from": "the file"}
    notes = [*origin.notes, *notes, *_zero_weights(model)]
    return {**facts, "class names": names, "class order": order, "names changed": changed, "notes": notes}


def report_text(file: str, report: Mapping[str, Any]) -> str:
    """The report as a block of lines."""
    lines = [f"imported {file}"]
    for name, fact in report.items():
        if name != "notes":
            lines.append(f"  {name:14} {shown_value(fact['value'])}   [{fact['how']}: {fact['from']}]")
    return "\n".join([*lines, *(f"  note: {note}" for note in report["notes"])])


def _classes(origin: Origin, dataset: Dataset) -> tuple[Fact, Fact, list[str]]:
    """What classes are called, how they are numbered, and a note where the data set says otherwise."""
    config = origin.dataset
    ours = list(dataset.class_names) if len(dataset.class_names) == dataset.num_classes else []
    assert config is not None
    names, how, where = called_classes(origin.model, dataset.num_classes, dataset.class_names)
    called = {"value": listed(names) if names else "none", "how": how, "from": where}
    if how == ASSUMED:
        names = []
    order = {
        "value": config.class_order if ours else "the data set's",
        "how": ASSUMED,
        "from": "rnet's own; else dataset.class_order",
    }
    if config.class_map:
        order = {"value": "class map", "how": GIVEN, "from": f"dataset.class_map={config.class_map}"}
    elif config.class_order != "alphabetical":
        order = {"value": config.class_order, "how": GIVEN, "from": "dataset.class_order"}
    elif names and shared(names, ours) == dataset.num_classes:
        order |= {"how": READ, "from": f"the class names of {where}"}
    notes = []
    if names and (other := other_number(names, ours)) is not None:
        number = other[1]
        notes.append(
            f"class order: class {number} is {ours[number]!r} here, and {names[number]!r} in {where}; a file of its "
            f"names is a dataset.class_map"
        )
    elif names and ours and not shared(names, ours):
        notes.append(
            f"class names: {where} says {listed(names, 2)}, the data set {listed(ours, 2)}; with no name in both, "
            f"nothing says whether they number the classes alike"
        )
    return called, order, notes


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
