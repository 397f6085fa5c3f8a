"""`python -m tests.fuzz [--count N] [--target NAME]... [--seed S] [--corpus DIR] [--repeat FILE] [--guided]`.

Prints a table; exit status 1 if anything was found. --corpus: further seeds, DIR/TARGET/*. --repeat: one input, whose
traceback is shown. --guided: by coverage, with atheris, one target; what is new goes into the corpus.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz import images, settings, stores, weights
from tests.fuzz.campaign import Outcome, quietly, run_target
from tests.fuzz.target import Target

TARGETS = [*settings.TARGETS, *weights.TARGETS, *images.TARGETS, *stores.TARGETS]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--target", action="append", help=", ".join(repr(target.name) for target in TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--repeat", type=Path)
    parser.add_argument("--guided", action="store_true")
    asked = parser.parse_args()
    names = asked.target or [target.name for target in TARGETS]
    chosen = [target for target in TARGETS if target.name in names]
    if not chosen:
        parser.error(f"no target {names}; see --help")
    if asked.repeat is not None:
        return _repeat(chosen[0], asked.repeat)
    if asked.guided:
        from tests.fuzz.guided import run_guided

        run_guided(chosen[0], asked.count, asked.seed, asked.corpus or Path(tempfile.mkdtemp(prefix="rnet-corpus-")))
    keep = Path(tempfile.mkdtemp(prefix="rnet-findings-"))
    started, whole = time.monotonic(), sum(target.weight for target in chosen)
    print("| target | inputs | results | errors | findings | slowest, s | grown, MiB |\n|---|---|---|---|---|---|---|")  # noqa: T201
    outcomes = []
    for target in chosen:
        count = max(1, round(asked.count * target.weight / whole))
        corpus = [path.read_bytes() for path in _corpus(asked.corpus, target)]
        outcomes.append(run_target(target, count, asked.seed, corpus, keep))
        _show(outcomes[-1])
    total = Outcome(
        "all", *(sum(getattr(one, name) for one in outcomes) for name in ("inputs", "results", "errors")),
        slowest=max(one.slowest for one in outcomes), peak=max(one.peak for one in outcomes),
        findings={f"{one.target}: {kind}": found for one in outcomes for kind, found in one.findings.items()},
    )  # fmt: skip
    _show(total)
    print(f"{time.monotonic() - started:.0f} s")  # noqa: T201
    for kind, found in total.findings.items():
        name = kind.partition(":")[0]
        print(f"{found['count']} x {kind}: python -m tests.fuzz --target '{name}' --repeat {found.get('file')}")  # noqa: T201
    return 1 if total.findings else 0


def _corpus(folder: Path | None, target: Target) -> list[Path]:
    return sorted(path for path in (folder / target.name).glob("*") if path.is_file()) if folder else []


def _show(one: Outcome) -> None:
    print(  # noqa: T201
        f"| {one.target} | {one.inputs:,} | {one.results:,} | {one.errors:,} | {len(one.findings)} | {one.slowest:.2f} "
        f"| {one.peak:.0f} |",
        flush=True,
    )


def _repeat(target: Target, path: Path) -> int:
    data = path.read_bytes()
    with quietly() as place:
        target.run(data, place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
