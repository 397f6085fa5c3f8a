"""The plan of a sweep's file as it is now, and what it has that was not submitted, or the other way round.

What was submitted is a plan in the store. While its file says the same, that plan is used as it is; else the file is
planned again, which takes seconds for thousands of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.sweep.plan.compare import Differing, told
from launch.sweep.plan.plan import Plan, Row, plan_path, read_plan
from launch.sweep.plan.source import matters, source_of
from launch.sweep.plan.spec import load_sweep

_NAMED = 3
"""Settings that are told one by one."""


@dataclass(frozen=True, kw_only=True)
class Current:
    """A sweep as its file says it now. root, file: as they were given, for messages.

    changes: in words, one line each, how it differs from what was submitted. arguments: what besides the file makes
    its cells, where these are not the submitted ones. seen: by which one knows that neither the file nor what was
    submitted has changed since.
    """

    plan: Plan
    root: Path
    file: Path
    changes: list[str] = field(default_factory=list)
    arguments: tuple[str, ...] = ()
    config_dir: Path | None = None
    seen: tuple[str, int] = ("", 0)


def current_plan(
    file: Path, changes: Sequence[str], root: Path, config_dir: Path | None = None, known: Current | None = None
) -> Current:
    """What the file and these changes mean now. config_dir: None for the one that was submitted with.

    known: what they meant a moment ago, which is returned while nothing has changed. Raises UserError for a sweep that
    was never submitted, and for a file that cannot be planned.
    """
    path = _plan_path(file, root, changes)
    written = path.stat().st_mtime_ns if path.exists() else 0
    if known is not None and known.seen == (source_of(file, changes, known.config_dir)["digest"], written):
        return known
    submitted = read_plan(path)
    if config_dir is None and (named := submitted.source["config_dir"]):
        config_dir = Path(named)
    source = source_of(file, changes, config_dir)
    plan, said, arguments = submitted, [], ()
    if source["digest"] != submitted.source["digest"]:
        from launch.sweep.plan.expand import make_plan  # composes configurations

        plan = make_plan(file, changes, config_dir=config_dir, root=root, keep=False)
        said = differences(submitted, plan, file)
        arguments = (*changes, *(("--config-dir", str(config_dir)) if config_dir else ()))
    return Current(
        arguments=arguments,
        plan=plan,
        root=root,
        file=file,
        changes=said,
        config_dir=config_dir,
        seen=(source["digest"], written),
    )


def saved_plan(file: Path, root: Path) -> Plan:
    """The plan that was submitted last under the file's name. Raises UserError if there is none."""
    return read_plan(_plan_path(file, root))


def _plan_path(file: Path, root: Path, changes: Sequence[str] = ()) -> Path:
    return plan_path(root, load_sweep(file, changes).name)


def differences(submitted: Plan, now: Plan, file: Path) -> list[str]:
    """In words, what of the rows and their settings is not as it was submitted; nothing if all is."""
    before, after = ({frozenset(row.values.items()): row for row in plan.rows} for plan in (submitted, now))
    gone = [row for key, row in before.items() if key not in after]
    new = [row for key, row in after.items() if key not in before]
    other = [
        (before[key], row)
        for key, row in after.items()
        if key in before and _ids(submitted, before[key].cells.values()) != _ids(now, row.cells.values())
    ]
    negatives = sum(
        key in before and _ids(submitted, before[key].negatives) != _ids(now, row.negatives)
        for key, row in after.items()
    )
    if not gone and not new and not other and not negatives:
        return []
    lines = []
    if gone:
        one = len(gone) == 1
        which = "1 row was submitted that is" if one else f"{len(gone)} rows were submitted that are"
        lines.append(f"{which} not in it any more, e.g. {_named(submitted, gone[0])}")
    if new:
        which = "1 row is in it that was" if len(new) == 1 else f"{len(new)} rows are in it that were"
        lines.append(f"{which} not submitted, e.g. {_named(now, new[0])}")
    if count := len(other) or negatives:
        what = f"settings than submitted: {_settings(submitted, now, other)}" if other else "negatives than submitted"
        lines.append(f"{'1 row has' if count == 1 else f'{count} rows have'} other {what}")
    was = [line for line in submitted.source["changes"] if matters(line)]
    again = [line for line in now.source["changes"] if matters(line)]
    if was != again:
        with_what = f"was submitted with {' '.join(was)}" if was else "was submitted without these changes"
        remedy = f"; rnet sweep status {file} {' '.join(was)} shows what was submitted".replace("  ", " ")
        lines.insert(
            0, f"{now.name} {with_what}, this is {file} {'with ' + ' '.join(again) if again else 'as it is'}{remedy}"
        )
    else:
        lines.insert(0, f"{file} has changed since {now.name} was submitted; this is the file as it is now")
    return lines


def _ids(plan: Plan, cells: Iterable[int]) -> list[str]:
    return [plan.cells[index].label for index in cells]


def _named(plan: Plan, row: Row) -> str:
    """A row by those of its axes that have several values."""
    several = {
        axis for axis, value in row.values.items() if any(other.values.get(axis) != value for other in plan.rows)
    }
    return " ".join(f"{axis}={value}" for axis, value in row.values.items() if axis in several) or "the only one"


def _settings(submitted: Plan, now: Plan, pairs: Sequence[tuple[Row, Row]]) -> str:
    """Which settings differ, those of most rows first, with an example of what they were and are."""
    differing = Differing(submitted, now)
    count: Counter[str] = Counter()
    for old, new in pairs:
        found = differing(submitted.cells[_last(old)], now.cells[_last(new)])
        count.update(f"{key} {told(was)} -> {told(is_now)}" for key, (was, is_now) in found.items())
    words = [f"{change} ({number} row{'s' if number > 1 else ''})" for change, number in count.most_common(_NAMED)]
    more = len(count) - len(words)
    return ", ".join(words) + (f" and {more} more" if more else "") if words else "what their files hold"


def _last(row: Row) -> int:
    return list(row.cells.values())[-1]
