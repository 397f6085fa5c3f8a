"""What the result of each stage must say, so that one of another origin is refused and not half understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rnet.storage.json_files import parse_json
from rnet.storage.shapes import NUMBER, fits

_OR_NONE = (*NUMBER, type(None))
_SAID: dict[str, Any] = {
    "train": {"accuracy": NUMBER},
    "attack": {
        **dict.fromkeys(("accuracy", "victim_accuracy", "drop", "agreement"), _OR_NONE),
        "derived": (bool, type(None)), "cost": dict,
    },
    "fingerprint": {"metadata": dict},
    "verify": {"scores": {str: NUMBER}},
}  # fmt: skip
"""By stage, the keys that others read."""
_SAID_OF_SOME = {"left_out": {str: str}, "cost": dict}


def says_enough(path: Path) -> bool:
    """Whether the result.json of a finished stage holds what others read of it, of the right types."""
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    if not fits(found, _SAID[path.parent.parent.name]):
        return False
    return all(fits(found[key], shape) for key, shape in _SAID_OF_SOME.items() if key in found)
