"""The verdict of a whole study in one sentence, and its suspects by attack and defence as counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rnet.report.drawn import label_of
from rnet.report.records import GIVEN, Key, Study, Trial, grouped, key_of, once

TOGETHER = "all together"
"""The column of the verdict over all defences."""


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """How often something was said of the same suspect in other seeds. missing: of how many there is none, and why."""

    counts: Counter[str] = field(default_factory=Counter)
    missing: Sequence[str] = ()

    @property
    def label(self) -> str:
        """What was said of all of them; "mixed" where that differs, "missing" where nothing was said of one."""
        if self.missing:
            return "missing"
        return next(iter(self.counts)) if len(self.counts) == 1 else "mixed"

    @property
    def text(self) -> str:
        """As people read it: 2 derived, 1 undecided, 1 missing."""
        whole = sum(self.counts.values())
        if whole == 1 and not self.missing:
            return next(iter(self.counts))
        said = [f"{count} {label}" for label, count in self.counts.most_common()]
        said += [f"{len(self.missing)} missing: {'; '.join(dict.fromkeys(self.missing))}"] if self.missing else []
        return ", ".join(said)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One attack on one victim: how well its suspects do the job, and what each defence says of them."""

    victim: Key
    attack: str
    trials: Sequence[Trial]
    by_defense: dict[str, Verdicts]


def matrix(study: Study) -> list[Judged]:
    """One entry per victim and attack, with the defences as keys, and TOGETHER where they judge together."""
    found = []
    tests = [one for one in once(study.trials, "test_id") if one.test_id]
    for (victim, attack), trials in grouped(tests, lambda one: (key_of(one.axes, "train"), label_of(one))).items():
        by_defense = {
            " ".join(str(value) for _, value in key): Verdicts(
                counts=Counter(one.verdict for one in runs if not one.state),
                missing=[one.state for one in runs if one.state],
            )
            for key, runs in grouped(trials, lambda one: key_of(one.axes, "fingerprint")).items()
        }
        if len(by_defense) > 1:
            by_defense[TOGETHER] = _together(trials)
        found.append(Judged(victim=victim, attack=attack, trials=once(trials, "suspect_id"), by_defense=by_defense))
    return found


def _together(trials: Sequence[Trial]) -> Verdicts:
    said: list[str] = []
    missing: list[str] = []
    for tests in grouped(trials, lambda one: one.suspect_id).values():
        if gone := [one.state for one in tests if one.state]:
            missing.append(gone[0])
        elif combined := tests[0].combined:
            said.append(combined["verdict"])
        else:
            missing.append("no combined verdict")
    return Verdicts(counts=Counter(said), missing=missing)


def sentence(study: Study) -> str:
    """Which suspects are recognised, which escape, and how many innocent models are accused; who says so."""
    judged = matrix(study)
    if not judged:
        return "Nothing was tested: there are suspects, but no scores."
    last = [[*one.by_defense.values()][-1] for one in judged]
    defenses = dict.fromkeys(name for one in judged for name in one.by_defense if name != TOGETHER)
    by = next(iter(defenses)) if len(defenses) == 1 else f"{len(defenses)} defences together"
    copies: dict[str, Counter[str]] = {}
    innocent: Counter[str] = Counter()
    given: list[str] = []
    missing = sum(len(said.missing) for said in last)
    for one, said in zip(judged, last, strict=True):
        kind = one.trials[0].kind
        if kind == "identity":
            continue
        if kind == GIVEN:
            given.append(f"{one.attack} is called {said.text}")
        elif any(trial.result.get("derived") is False for trial in one.trials):
            innocent.update(said.counts)
        else:
            copies.setdefault(one.attack, Counter()).update(said.counts)
    parts = [*_of_copies(copies), *given]
    if innocent:
        count, accused = sum(innocent.values()), innocent["derived"]
        of = "the independent model" if count == 1 else f"{accused or 'none'} of {count} independent models"
        parts.append(f"{of} {_is(max(accused, 1))} {'not accused' if count == 1 and not accused else 'accused'}")
    if missing:
        parts.append(f"{_number(missing, 'suspect')} {_has(missing)} no verdict yet, so this is incomplete")
    return f"By {by}: {'; '.join(parts) or 'no suspect was judged'}."


def _of_copies(copies: dict[str, Counter[str]]) -> list[str]:
    counted = {attack: said for attack, said in copies.items() if sum(said.values())}
    caught = {attack: said for attack, said in counted.items() if said["derived"] == sum(said.values())}
    escaped = {attack: said for attack, said in counted.items() if not said["derived"]}
    mixed = {attack: said for attack, said in counted.items() if attack not in caught and attack not in escaped}
    parts = []
    if escaped:
        parts.append(f"{_names(escaped)} {'escapes' if len(escaped) == 1 else 'escape'}{_of(escaped, 'recognised', 0)}")
    if caught:
        whole = sum(sum(said.values()) for said in caught.values())
        parts.append(f"{_names(caught)} {_is(len(caught))} recognised as derived{_of(caught, 'models', whole)}")
    parts += [f"{attack} is recognised in {said['derived']} of {sum(said.values())}" for attack, said in mixed.items()]
    return parts


def _of(said: dict[str, Counter[str]], what: str, count: int) -> str:
    whole = sum(sum(one.values()) for one in said.values())
    return f" ({count} of {whole} {what})" if whole > len(said) else ""


def _names(names: dict[str, Counter[str]]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"
