"""Where results come from: versions and commit, ids and seeds, as the block "how to reproduce" shows them."""

from __future__ import annotations

import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rnet import __version__
from rnet.report.drawn import label_of
from rnet.report.records import Study, Trial, once

MOST_IDS = 24
"""Of suspects; of more, the table of rows has them."""


def made_by() -> str:
    """The versions that made a page, and the commit where rnet runs from a checkout."""
    return f"rnet {__version__}{_commit()}, torch {version('torch')}, Python {platform.python_version()}"


def computed_by(trials: Sequence[Trial]) -> str:
    """The versions that computed the suspects, with how many each."""
    found = Counter(
        ", ".join(f"{name} {number}" for name, number in one.status["versions"].items())
        for one in once(trials, "suspect_id")
        if one.status.get("versions")
    )
    return "\n".join(f"{count} suspects: {text}" for text, count in found.most_common()) or "not recorded"


def ids_and_seeds(study: Study) -> list[tuple[str, str]]:
    """The stages in the store, and the seeds."""
    suspects = once(study.trials, "suspect_id")
    seeds = sorted({str(value) for one in suspects for axis, value in one.axes.items() if axis == "seed"})
    lines = [f"train/{name}" for name in dict.fromkeys(one.victim_id for one in suspects)]
    if len(suspects) <= MOST_IDS:
        lines += [f"attack/{one.suspect_id}  {label_of(one)}" for one in suspects]
        lines += [f"verify/{one.test_id}  {label_of(one)}" for one in once(study.trials, "test_id") if one.test_id]
    else:
        lines.append(f"{len(suspects)} suspects and their tests: in the table of rows")
    negatives = sorted({str(one.seed) for one in study.negatives})
    said = [f"seed: {', '.join(seeds)}"] if seeds else []
    said += [f"of the independent models: {', '.join(negatives)}"] if negatives else []
    return [("Ids in the store", "\n".join(lines)), *([("Seeds", "\n".join(said))] if said else [])]


def _commit() -> str:
    """ ", commit ..." of the checkout that rnet is in; nothing where it is installed or there is no git."""
    folder = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        said = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        return said.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != folder:
            return ""
        changed = git("status", "--porcelain", "--untracked-files=no")
        return f" at commit {git('rev-parse', 'HEAD')[:12]}{' with changes' if changed else ''}"
    except (OSError, subprocess.CalledProcessError):
        return ""
