"""What came of the faults: counted by kind and place, as the table of docs/reliability.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

HEAD = ("fault", "where", "number", "the same bytes", "one clear message", "anything else")
BYTES, MESSAGE, ELSE = HEAD[3:]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one fault. how: BYTES, MESSAGE or ELSE. said: for ELSE, what happened."""

    fault: str
    where: str
    how: str
    said: str = ""


def outcome(fault: str, where: str, problem: str | None, message: str | None = None) -> Outcome:
    """ELSE if there was a problem, MESSAGE if there was one clear message, else BYTES."""
    if problem is not None:
        return Outcome(fault=fault, where=where, how=ELSE, said=problem)
    return Outcome(fault=fault, where=where, how=BYTES if message is None else MESSAGE)


class Table:
    """Counts outcomes."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Counter[str]] = {}

    def add(self, one: Outcome) -> None:
        """One more."""
        self.found.setdefault((one.fault, one.where), Counter())[one.how] += 1

    def total(self, how: str | None = None) -> int:
        """How many in all, or of one kind."""
        return sum(sum(row.values()) if how is None else row[how] for row in self.found.values())

    def markdown(self) -> str:
        """A row for each fault and place, and one for all."""
        rows = [(*names, *_numbers(row)) for names, row in self.found.items()]
        everything = sum(self.found.values(), Counter())
        lines = [HEAD, ("---", "---", *["---:"] * 4), *rows, ("all", "", *_numbers(everything))]
        return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _numbers(row: Mapping[str, int]) -> tuple[int, ...]:
    return sum(row.values()), row[BYTES], row[MESSAGE], row[ELSE]
