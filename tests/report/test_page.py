"""The page of a study: whole without network or script, valid, escaped, and honest about what is missing."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import html5lib
import pytest

from rnet.figures import drawing as colours
from rnet.report.page import Page, Section, html
from rnet.report.records import Study, Trial
from rnet.report.sentence import Verdicts, matrix, sentence
from rnet.report.study_page import page_of
from rnet.report.svg import VARIABLES, inline_svg
from rnet.report.table import Column, Table
from rnet.report.tables import make_tables
from tests.report.studies import study, trial, unfinished

ODD = '<script>alert("x")</script> & {{ 7*7 }} $x$ </svg></title> --> \'"'
"""What somebody may call an attack, and what an error may say."""


def together(found: Study) -> Study:
    """The study with a combined verdict of every suspect, that of its own tests, and with negatives of ZEST, too."""
    more = [
        replace(one, axes={**one.axes, "defense": "zest"}, test_id=f"z{one.test_id}", scores={"zest/l2": 40.0 + place})
        for place, one in enumerate(found.negatives)
    ]
    trials = [replace(one, combined={"verdict": one.verdict}) for one in found.trials]
    return replace(found, trials=trials, negatives=[*found.negatives, *more])


def page(found: Study, **changes: Any) -> str:
    known: dict[str, Any] = {"title": "A study", "kind": "test", "commands": "rnet report"}
    return html(page_of(found, make_tables(found), Path("/nowhere"), **(known | changes)))


def odd_study() -> Study:
    """With a name, an error, a missing test and a score that is not finite."""
    broken = trial("knockoff", "zest", 0)
    broken = replace(broken, scores=[replace(broken.scores[0], value=math.nan)])
    found = together(study(unfinished("removalnet", "zest", 1, f"failed: {ODD}", suspect=True), broken))
    return replace(found, trials=[replace(one, axes={**one.axes, "dataset": ODD}) for one in found.trials])


PAGES = {
    "complete": lambda: page(together(study())),
    "odd": lambda: page(odd_study(), title=ODD, commands=ODD, lead=ODD, more=[(ODD, ODD)]),
    "untested": lambda: page(Study(trials=[replace(one, test_id=None, scores=[]) for one in study().trials])),
    "one unfinished": lambda: page(Study(trials=[unfinished("removalnet", "zest", 1, "running", suspect=True)])),
    "empty": lambda: html(Page(title="x", kind="y", verdict="z")),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_valid_html(name: str) -> None:
    html5lib.HTMLParser(strict=True).parse(PAGES[name]())


@pytest.mark.parametrize("name", PAGES)
def test_the_page_needs_nothing_from_elsewhere(name: str) -> None:
    text = PAGES[name]()
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:|//|file:)""", text)
    named = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert named <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of languages
    assert "@import" not in text
    assert text.count("<script") == 1


def test_names_stay_text_wherever_they_stand() -> None:
    text = PAGES["odd"]()
    tree = html5lib.parse(text, namespaceHTMLElements=False)
    assert len(tree.findall(".//script")) == 1
    assert "49" not in "".join(tree.find(".//title").itertext())
    for place in (".//title", ".//h1", ".//pre", ".//td", ".//p[@class='lead']"):
        assert any(ODD[:40] in "".join(one.itertext()) for one in tree.findall(place)), place


def test_ids_are_unique_and_references_lead_somewhere() -> None:
    text = PAGES["complete"]()
    ids = Counter(re.findall(r' id="([^"]+)"', text))
    assert max(ids.values()) == 1
    referred = re.findall(r'(?:href="|url\()#([^")]+)', text) + re.findall(r'aria-labelledby="([^"]+)"', text)
    assert referred
    assert set(referred) <= set(ids)


def test_what_is_missing_is_said_above_all_in_the_matrix_in_captions_and_in_tables() -> None:
    whole = page(together(study()))
    assert "Incomplete." not in whole
    assert "Not shown, because incomplete" not in whole
    partly = page(together(study(unfinished("removalnet", "zest", 1, "failed: no memory"))))
    assert "1 of 12 tests are missing (failed: no memory)" in partly
    assert "1 suspect has no verdict yet, so this is incomplete" in partly
    assert '<td class="missing">1 independent, 1 missing: failed: no memory</td>' in partly
    caption = re.search(r'id="scores-digits-resnet8".*?<figcaption>(.*?)</figcaption>', partly, re.DOTALL)
    assert caption is not None
    assert "Not shown, because incomplete: removalnet, zest/l2: failed: no memory." in caption[1]
    assert re.search(r">incomplete: 1 missing, see the caption</text>", partly)
    assert '<td class="gap">missing: failed: no memory</td>' in partly


def test_a_number_that_is_not_finite_is_shown_as_such() -> None:
    columns = [Column(name="score", kind="number")]
    lines = [{"score": math.nan}, {"score": math.inf}, {"score": 1.5}]
    made = Table(name="t", title="T", columns=columns, lines=lines)
    text = html(Page(title="x", kind="y", verdict="z", sections=[Section(title="Tables", tables=[made])]))
    cells = re.findall(r"<td.*?</td>", text)
    assert cells == [
        '<td class="bad">not finite: nan</td>',
        '<td class="bad">not finite: inf</td>',
        '<td class="n">1.5</td>',
    ]


def suspects(*said: tuple[str, bool | None, str]) -> Study:
    """One test for each (attack, derived, verdict); "" has none yet."""
    found = []
    for number, (attack, derived, verdict) in enumerate(said):
        own = trial("finetune", "ipguard", 0)
        axes = {**own.axes, "attack": attack}
        kind = {None: "import"}.get(derived, attack)
        found.append(
            replace(own, axes=axes, kind=kind, suspect_id=f"s{number}", test_id=f"t{number}", verdict=verdict,
                    result={**own.result, "derived": derived}, state="" if verdict else "running")
        )  # fmt: skip
    return Study(trials=found)


SENTENCES: dict[str, list[tuple[str, bool | None, str]]] = {
    "removalnet escapes; finetune is recognised as derived": [
        ("finetune", True, "derived"), ("removalnet", True, "independent")],
    "prune and distill escape": [("prune", True, "independent"), ("distill", True, "undecided")],
    "removalnet is recognised in 1 of 2": [("removalnet", True, "derived"), ("removalnet", True, "independent")],
    "prune is recognised as derived (2 of 2 models)": [("prune", True, "derived"), ("prune", True, "derived")],
    "the independent model is not accused": [("independent", False, "undecided")],
    "the independent model is accused": [("independent", False, "derived")],
    "none of 2 independent models is accused": [
        ("independent", False, "undecided"), ("independent", False, "independent")],
    "2 of 2 independent models are accused": [("independent", False, "derived")] * 2,
    "theirs.pt is called derived": [("theirs.pt", None, "derived")],
    "prune escapes; 1 suspect has no verdict yet, so this is incomplete": [
        ("prune", True, "independent"), ("prune", True, "")],
    "no suspect was judged": [("identity", True, "derived")],
}  # fmt: skip


@pytest.mark.parametrize("said", SENTENCES)
def test_the_verdict_is_one_sentence(said: str) -> None:
    assert sentence(suspects(*SENTENCES[said])) == f"By ipguard: {said}."


def test_several_defences_speak_together() -> None:
    found = together(study())
    assert sentence(found).startswith(
        "By 2 defences together: removalnet and knockoff escape (0 of 4 recognised); fine"
    )
    (first, *_) = matrix(found)
    assert first.by_defense["all together"].text == "2 derived"


def test_counts_of_verdicts_are_text() -> None:
    assert Verdicts(counts=Counter(derived=1)).text == "derived"
    assert Verdicts(counts=Counter(derived=1, undecided=2)).text == "2 undecided, 1 derived"
    assert Verdicts(counts=Counter(derived=1), missing=["running", "running"]).text == "1 derived, 2 missing: running"


def light_and_dark() -> tuple[dict[str, str], dict[str, str]]:
    """The page's colours by name, in both themes."""
    template = (Path(__file__).parents[2] / "rnet" / "report" / "page.html").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", template, re.DOTALL)[:2]
    return tuple(dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", one)) for one in (light, dark))  # type: ignore[return-value]


def contrast(one: str, other: str) -> float:
    """WCAG 2.1: (L1 + 0.05) / (L2 + 0.05) of relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_stand_out_from_their_ground_in_both_themes() -> None:
    for theme in light_and_dark():
        grounds = [("ink", "paper"), ("ink", "back"), ("muted", "paper"), ("muted", "back"), ("link", "back"),
                   ("link", "paper"), ("gap", "gap-back"), ("gap", "paper"), ("ink", "undecided-back"),
                   ("derived", "derived-back"), ("independent", "independent-back")]  # fmt: skip
        for one, ground in grounds:
            assert contrast(theme[one], theme[ground]) >= 4.5, (one, ground)
        for name in theme:
            if name.startswith("series") or name in ("derived", "independent", "undecided"):
                assert contrast(theme[name], theme["paper"]) >= 3, name


def test_figures_take_all_colours_from_the_page() -> None:
    light, dark = light_and_dark()
    assert light.keys() == dark.keys()
    assert {name: light[name] for name in VARIABLES.values()} == {name: colour for colour, name in VARIABLES.items()}
    made = page_of(together(study()), [], Path("/nowhere"), title="t", kind="k", commands="c")
    for drawn in [*made.first, *(one for section in made.sections for one in section.figures)]:
        assert not re.findall(r"#[0-9a-f]{6}", inline_svg(drawn)), drawn.name
    assert len(VARIABLES) == len({*VARIABLES.values()}) == 8 + len(colours.SERIES)


def test_headings_go_down_one_level_at_a_time() -> None:
    levels = [int(level) for level in re.findall(r"<h([1-6])", PAGES["complete"]())]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_same_study_gives_the_same_bytes() -> None:
    assert page(together(study())) == page(together(study()))


def test_a_victim_is_no_suspect_that_escapes() -> None:
    own = trial("finetune", "ipguard", 0)
    copy: Trial = replace(own, kind="identity", axes={**own.axes, "attack": "identity"})
    assert matrix(Study(trials=[copy]))[0].attack == "victim"
