"""Damaged records of a sweep: plan, attempts, submissions. `rnet sweep status`, `report` and `submit` read them again.

Nothing in them is a number of a result. A command works without them or says in one line which file to delete; after
that the sweep goes on, and its results have the bytes of an undisturbed one.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tests.faults.process import Ended, Process
from tests.faults.table import Outcome, outcome
from tests.faults.ways_of_damage import DAMAGES, without_privileges
from tests.faults.work import Bench, differing_files
from tests.launch.sweep.sweeps import write_sweep

FAULT = "damaged record of a sweep"
RECORDS = ("sweeps", "attempts", "submissions", "jobs")


def case(bench: Bench, number: int, draw: random.Random, desk: Path) -> Outcome | None:
    """One record; in every fifth case a cell is open as well, which is then computed."""
    finished = _finished(bench)
    sweep = write_sweep(desk, **_SMALL)
    store = shutil.copytree(finished, desk / "store")
    if number % 5 == 0:
        shutil.rmtree(next((store / "verify").iterdir()))
    files = sorted(path for name in RECORDS for path in (store / name).rglob("*") if path.is_file())
    kinds = sorted({_kind(path, store) for path in files})
    kind = draw.choice(kinds)
    path = draw.choice([path for path in files if _kind(path, store) == kind])
    damage = draw.choice(list(DAMAGES))
    kept = shutil.copy2(path, desk / "kept")
    DAMAGES[damage](path, draw)
    prepare = without_privileges if damage.startswith("no permission") else None
    said = f"{damage}, {path.relative_to(desk)}"
    message = None
    for words in (["status"], ["report", "--format", "csv"], ["submit", "--wait"]):
        end = _rnet([words[0], str(sweep), *words[1:]], store, desk, prepare)
        if end.status in (0, 1) and "Traceback" not in end.said and "unexpected" not in end.said:
            continue
        if end.message is None or (path.name not in end.message and str(path.parent) not in end.message):
            return outcome(FAULT, kind, f"{said}: rnet sweep {words[0]}: {end.describe()}")
        message = end.message
    path.parent.chmod(0o755)
    if message is not None:  # delete it, or give it back its permissions
        if prepare is None:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        elif path.is_file():
            shutil.copy2(kept, path)
            path.chmod(0o600)
    last = _rnet(["submit", str(sweep), "--wait"], store, desk)
    retried = _rnet(["retry", str(sweep), "--wait"], store, desk)
    problem = next((end.describe() for end in (last, retried) if end.status != 0), None)
    problem = problem or differing_files(finished, store)
    return outcome(FAULT, kind, problem and f"{said}: {message}: after that: {problem}", message)


_SMALL = {"axes": {"dataset": ["digits"], "model": ["resnet8"], "attack": ["identity"], "defense": ["random"],
                   "seed": [0]}, "cases": [], "cluster": "local"}  # fmt: skip


def _kind(path: Path, store: Path) -> str:
    return f"`{path.relative_to(store).parts[0]}/...{path.suffix}`"


def _finished(bench: Bench) -> Path:
    """The store of a sweep that nothing has disturbed, computed once."""
    folder = bench.folder / "sweep"
    if not folder.exists():
        folder.mkdir()
        end = _rnet(["submit", str(write_sweep(folder, **_SMALL)), "--wait"], folder / "store", folder)
        assert end.status == 0, end.describe()
    return folder / "store"


def _rnet(words: list[str], store: Path, desk: Path, prepare: object = None) -> Ended:
    return Process(["sweep", *words, "--root", str(store)], desk / "desk", prepare=prepare).wait(300)
