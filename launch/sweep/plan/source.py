"""What a plan was made from, so that whoever looks at a sweep knows whether its file still says the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnet import __version__
from rnet.config.compose import config_folder
from rnet.config.yaml_files import raw, read_mapping

_ELSEWHERE = ("cluster", "resources")
"""Keys of a sweep file that say where its cells are computed, not which."""


def source_of(path: Path, changes: Sequence[str], config_dir: Path | None) -> dict[str, Any]:
    """What the command line set, which folder of options it named, and the digest of all that decides which cells
    there are: the file without where it runs, what was set differently, the options of rnet and of that folder.
    """
    document = raw(read_mapping(path))
    kept = {key: value for key, value in document.items() if key not in _ELSEWHERE}
    if isinstance(cases := kept.get("cases"), list):
        kept["cases"] = [
            {key: value for key, value in case.items() if key != "resources"} if isinstance(case, dict) else case
            for case in cases
        ]
    set_here = [line for line in changes if matters(line)]
    digest = hashlib.sha256(json.dumps([__version__, kept, set_here], sort_keys=True).encode())
    for folder in (config_folder(), *([config_dir] if config_dir else [])):
        for file in sorted(folder.rglob("*.yaml")):
            if file.parent.name not in ("cluster", "sweep"):
                digest.update(f"\0{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return {
        "digest": digest.hexdigest(), "changes": list(changes),
        "config_dir": None if config_dir is None else str(config_dir.expanduser().resolve()),
    }  # fmt: skip


def matters(change: str) -> bool:
    """Whether a change on the command line may change which cells there are."""
    return change.partition("=")[0].partition(".")[0] not in (*_ELSEWHERE, "max_rows")
