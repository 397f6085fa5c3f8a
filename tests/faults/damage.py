"""Damaged files: of finished and of unfinished stages, and of what a command is given.

The command that reads the file ends as if nothing were damaged, or says in one line which file is, and goes well after
what the line asks for. A given file that holds something else by now is another input: it gives a stage of another id.
"""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

from tests.faults.process import Process
from tests.faults.table import Outcome, outcome
from tests.faults.ways_of_damage import DAMAGES, without_privileges
from tests.faults.work import Bench, Undisturbed, Work

FINISHED = ("train (digits)", "train (image files)", "train (import)", "attack (removalnet)", "fingerprint (random)",
            "verify (ipguard)", "verify (sac)")  # fmt: skip
CUT_OFF = ("train (digits)", "attack (removalnet)", "attack (knockoff)", "attack (prune)")
GIVEN = ("train (import)", "train (image files)")
WAY_OUT = "rnet store verify --fix"


def case(bench: Bench, number: int, draw: random.Random, desk: Path) -> Outcome | None:
    """One damaged file and the command that reads it."""
    which = number % 5
    work = _drawn(bench, FINISHED if which < 3 else CUT_OFF if which == 3 else GIVEN, draw)
    undisturbed, store, inputs = bench.undisturbed(work), desk / "store", desk / "inputs"
    if which < 3:
        shutil.copytree(undisturbed.store, store)
        path = _file_below(store, draw)
    elif which == 3:
        shutil.copytree(bench.cut_off(work), store)
        path = _file_below(next((store / work.stage).iterdir()), draw)
    else:
        shutil.copytree(undisturbed.parents, store)
        shutil.copytree(bench.inputs, inputs)
        path = draw.choice([_file_below(inputs / name, draw) for name in _read(work)])
    damage = draw.choice(list(DAMAGES))
    if which == 4:
        return given(bench, undisturbed, path, damage, draw, desk)
    return kept(bench, undisturbed, path, damage, draw, desk)


def _drawn(bench: Bench, names: tuple[str, ...], draw: random.Random) -> Work:
    return draw.choice([work for work in bench.plain if f"{work.stage} ({work.name})" in names])


def _read(work: Work) -> tuple[str, ...]:
    return ("options", "weights" if work.name == "import" else "images")


def _file_below(folder: Path, draw: random.Random) -> Path:
    """Any file; each name is as likely as any other, whatever number of files has it."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.setdefault(_kind(path), []).append(path)
    return draw.choice(found[draw.choice(sorted(found))])


def _kind(path: Path) -> str:
    """For the table: the file's name without what tells it from others of its kind."""
    if path.parent.parent.name == "images":
        return "an image"
    name = re.sub(r"^events\.out.*", "events.out", re.sub(r"step-\d+", "step-N", path.name))
    return f"a record in {path.parent.name}/" if re.fullmatch(r"[0-9a-f]{16}.*\.json", name) else name


def kept(
    bench: Bench, undisturbed: Undisturbed, path: Path, damage: str, draw: random.Random, desk: Path
) -> Outcome:  # fmt: skip
    """A file of the store."""
    work, store = undisturbed.work, desk / "store"
    where, said = f"`{_kind(path)}`", f"{work}, {damage}, {path.relative_to(desk)}"
    DAMAGES[damage](path, draw)
    prepare = without_privileges if damage.startswith("no permission") else None
    (end,) = bench.wait(bench.start(work, store, desk / "desk", prepare=prepare))
    if end.status == 0 and "Traceback" not in end.said:
        if prepare is not None:
            _open(path)
        problem = _difference(bench, undisturbed, store, path)
        return outcome("damaged", where, problem and f"{said}: in silence, {problem}; it said {end.said[-800:]!r}")
    message = end.message
    if message is None or not _names(message, path, store):
        return outcome("damaged", where, f"{said}: {end.describe()}")
    if prepare is not None:
        _open(path)
    elif WAY_OUT in message:
        fixed = Process(["store", "verify", "--fix", "--root", str(store)], desk / "desk").wait()
        if fixed.status != 0:
            return outcome("damaged", where, f"{said}: {message}: --fix: {fixed.describe()}")
    elif "delete" in message:
        shutil.rmtree(store.joinpath(*path.relative_to(store).parts[:2]))
    else:
        return outcome("damaged", where, f"{said}: no way out: {message}")
    problem = bench.ends_the_same(work, store, desk / "desk")
    return outcome("damaged", where, problem and f"{said}: {message}: after that: {problem}", message)


def _difference(bench: Bench, undisturbed: Undisturbed, store: Path, path: Path) -> str | None:
    """As for any store; what the command had no reason to read, the check of the whole store finds.

    A parent without its result is not finished: it is computed again when it is needed.
    """
    problem = undisturbed.difference(store)
    if problem is None:
        return None
    if path.name == "result.json" and not path.exists() and undisturbed.spoiled(store) is None:
        shutil.rmtree(store / undisturbed.work.stage)
        return bench.ends_the_same(undisturbed.work, store, store.parent / "desk")
    checked = Process(["store", "verify", "--root", str(store)], store.parent / "desk").wait()
    label = "/".join(path.relative_to(store).parts[:2])
    return None if checked.status == 2 and checked.message and label in checked.shown else problem


def given(
    bench: Bench, undisturbed: Undisturbed, path: Path, damage: str, draw: random.Random, desk: Path
) -> Outcome:  # fmt: skip
    """A file that the command is given."""
    work, store, inputs = undisturbed.work, desk / "store", desk / "inputs"
    where, said = f"given: {_kind(path)}", f"{work}, {damage}, {path.relative_to(desk)}"
    whole = shutil.copy2(path, desk / "whole")
    DAMAGES[damage](path, draw)
    prepare = without_privileges if damage.startswith("no permission") else None
    (end,) = bench.wait(bench.start(work, store, desk / "desk", prepare=prepare, inputs=inputs))
    if end.status == 0 and "Traceback" not in end.said:
        problem = undisturbed.difference(store)
        if problem is None or _other_ids(undisturbed, store):
            return outcome("damaged", where if problem is None else f"{where}, another input by now", None)
        return outcome("damaged", where, f"{said}: in silence, {problem}")
    if end.message is None or not _names(end.message, path, inputs):
        return outcome("damaged", where, f"{said}: {end.describe()}")
    path.parent.chmod(0o755)
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    shutil.copy2(whole, path)
    (end_again,) = bench.wait(bench.start(work, store, desk / "desk", inputs=inputs))
    problem = undisturbed.difference(store) if end_again.status == 0 else end_again.describe()
    return outcome("damaged", where, problem and f"{said}: {end.message}: repaired: {problem}", end.message)


def _other_ids(undisturbed: Undisturbed, store: Path) -> bool:
    """Whether all that was computed has other ids than undisturbed, and is whole."""
    labels = [f"{path.parent.parent.name}/{path.parent.name}" for path in store.glob("*/*/result.json")]
    checked = Process(["store", "verify", "--root", str(store)], store.parent / "desk").wait()
    return bool(labels) and not set(labels) & set(undisturbed.labels) and checked.status == 0


def _names(message: str, path: Path, top: Path) -> bool:
    """Whether a message names the file, or a folder that it is in below the top."""
    folders = [folder for folder in path.parents if top in folder.parents]
    return path.name in message or repr(path.stem) in message or any(str(folder) in message for folder in folders)


def _open(path: Path) -> None:
    if path.parent.exists():  # not the checkpoints of a stage that is complete by now
        path.parent.chmod(0o755)
    if path.exists():
        path.chmod(0o644)
