"""`suspects=FOLDER`: every file of weights in a folder as a suspect of its own, beside the attacks that are named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rnet.config.overrides import expand_choices
from rnet.errors import UserError

_OF_FILES = ("model", "weights_key", "num_classes", "derived")
"""Settings of given suspects; other attacks that are named beside a folder do not get them."""
_OF_ALL = ("batch_size",)


def runs_of(stage: str, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run: one for every combination of attacks and defences, and for every file of a folder.

    Raises UserError for a folder of suspects in a stage that judges nothing, or one without files.
    """
    folders = [line.partition("=")[2] for line in overrides if line.startswith("suspects=")]
    if not folders:
        return expand_choices(overrides)
    if stage != "verify":
        raise UserError(f"suspects={folders[-1]!r}: only rnet verify judges a folder; take it out")
    if "" in folders:
        raise UserError("suspects= names no folder; write suspects=FOLDER")
    from rnet.attacks.imported.folder import files_of

    rest = [line for line in overrides if not line.startswith("suspects=")]
    runs, common = [], rest
    if any(line.startswith("attack=") for line in rest):
        runs = expand_choices([line for line in rest if _field(line) not in _OF_FILES])
        of_files = (None, *_OF_FILES, *_OF_ALL)
        common = [line for line in rest if _field(line) in of_files and not line.startswith("attack=")]
    for folder in folders:
        for file in files_of(Path(folder)):
            runs += expand_choices([*common, "attack=import", f"attack.weights={file}"])
    return runs


def _field(line: str) -> str | None:
    """The attack's key that a line sets, without what is inside of it; None for other lines."""
    key = line.partition("=")[0].split(".")
    return key[1] if key[0] == "attack" and len(key) > 1 else None
