"""Campaigns of faults: `python -m tests.faults --minutes N [--seed S] [--only kills,damage,...]`.

Prints the table of docs/reliability.md, and before it every case that did not end as it must, with the command that
repeats it. Exit status 1 if there was one. A case is decided by the seed, its kind and its number; only moments of time
are not those of another run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import clocks, damage, disks, kills, nodes, sweeps, together
from tests.faults.process import DEEPSPEED, load
from tests.faults.table import ELSE, Outcome, Table, outcome
from tests.faults.work import Bench

Case = Callable[[Bench, int, random.Random, Path], Outcome | None]
KINDS: dict[str, Case] = {
    "kills": kills.case, "damage": damage.case, "disks": disks.case, "sweeps": sweeps.case, "together": together.case,
    "clocks": clocks.case, "nodes": nodes.case,
}  # fmt: skip
SHARES = {"kills": 9, "damage": 6, "disks": 3, "sweeps": 2, "together": 2, "clocks": 2, "nodes": 2}
"""Of the time, as far as kinds are asked for."""
LIMITS = {"nodes": nodes.MOST}


def one_case(bench: Bench, kind: str, number: int, seed: int) -> Outcome | None:
    """The case of that number; what it made is gone afterwards."""
    desk = bench.folder / "case"
    shutil.rmtree(desk, ignore_errors=True)
    desk.mkdir()
    try:
        return KINDS[kind](bench, number, random.Random(f"{seed} {kind} {number}"), desk)
    except Exception as error:  # a case that cannot be carried out is no success
        return outcome(kind, "the campaign itself", f"{type(error).__name__}: {error}")
    finally:
        bench.close()


def campaign(bench: Bench, kinds: list[str], seed: int, *, seconds: float, most: int | None = None) -> Table:
    """Cases of the kinds, one kind after the other, within the time; most: so many of each at most."""
    table = Table()
    end = time.monotonic() + seconds
    for place, kind in enumerate(kinds):
        left = sum(SHARES[other] for other in kinds[place:])
        until = time.monotonic() + (end - time.monotonic()) * SHARES[kind] / left
        number = 0
        limit = min(LIMITS.get(kind, sys.maxsize), sys.maxsize if most is None else most)
        while time.monotonic() < until and number < limit:
            found = one_case(bench, kind, number, seed)
            if found is not None:
                table.add(found)
                if table.total() % 25 == 0:
                    print(f"{table.total()} faults", file=sys.stderr, flush=True)  # noqa: T201
                if found.how == ELSE:
                    command = f"python -m tests.faults --seed {seed} --repeat {kind}/{number}"
                    print(f"{found.fault}, {found.where}: {found.said}\n  {command}\n", flush=True)  # noqa: T201
            number += 1
    return table


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Kills, damage, full disks and the like, and what rnet makes of them.")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(KINDS), help=f"kinds: {', '.join(KINDS)}")
    parser.add_argument("--most", type=int, help="so many of each kind at most")
    parser.add_argument("--quick", action="store_true", help="few commands, of one process each")
    parser.add_argument("--repeat", metavar="KIND/NUMBER", help="one case again")
    given = parser.parse_args()
    kinds = given.only.split(",") if given.repeat is None else [given.repeat.split("/")[0]]
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; choose from {', '.join(KINDS)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = time.monotonic()
    load(*(DEEPSPEED if "kills" in kinds and not given.quick else ()))
    folder = Path(tempfile.mkdtemp(prefix="rnet-faults-"))
    try:
        bench = Bench(folder, quick=given.quick)
        if given.repeat is not None:
            found = one_case(bench, kinds[0], int(given.repeat.split("/")[1]), given.seed)
            print(found)  # noqa: T201
            return int(found is not None and found.how == ELSE)
        table = campaign(
            bench, kinds, given.seed, seconds=60 * given.minutes - (time.monotonic() - started), most=given.most
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table.markdown())  # noqa: T201
    return int(table.total(ELSE) > 0)


if __name__ == "__main__":
    sys.exit(main())
