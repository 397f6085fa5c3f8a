"""What the result of each stage must say, so that one of another origin is refused and not half understood."""

from __future__ import annotations

from pathlib import Path

from rnet.storage.json_files import parse_json

_NUMBER = (int, float)
_OR_NONE = (*_NUMBER, type(None))
_SAID: dict[str, dict[str, tuple[type, ...]]] = {
    "train": {"accuracy": _NUMBER},
    "attack": {
        **dict.fromkeys(("accuracy", "victim_accuracy", "drop", "agreement"), _OR_NONE),
        "derived": (bool, type(None)),
        "cost": (dict,),
    },
    "fingerprint": {"metadata": (dict,)},
    "verify": {"scores": (dict,)},
}
"""By stage, the keys that others read, and the types of their values."""
_SAID_OF_SOME = {"left_out": dict, "cost": dict}


def says_enough(path: Path) -> bool:
    """Whether the result.json of a finished stage holds what others read of it, of the right types."""
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict):
        return False
    if any(
        not isinstance(found.get(key, NotImplemented), kinds) for key, kinds in _SAID[path.parent.parent.name].items()
    ):
        return False
    if any(not isinstance(found.get(key, {}), kind) for key, kind in _SAID_OF_SOME.items()):
        return False
    return all(isinstance(score, _NUMBER) for score in found.get("scores", {}).values())
