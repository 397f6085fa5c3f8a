"""A figure as SVG inside a page: its colours are the page's variables, its ids are its own, its text stays text."""

from __future__ import annotations

import io
import re

from rnet.figures import drawing as colours
from rnet.figures.drawing import STYLE, Drawing

VARIABLES = {
    colours.INK: "ink", colours.MUTED: "muted", colours.RULE: "rule", colours.PAPER: "paper", colours.GAP: "gap",
    colours.DERIVED: "derived", colours.UNDECIDED: "undecided", colours.INDEPENDENT: "independent",
    **{colour: f"series-{number}" for number, colour in enumerate(colours.SERIES)},
}  # fmt: skip
"""The page's variable that stands for each colour that figures are drawn in."""
_COLOUR = re.compile("|".join(VARIABLES))
_ID = re.compile(r' id="([^"]+)"')
_REFERENCE = re.compile(r'(xlink:href="|url\()#([^")]+)')
_FONT = re.compile(r"font-family: [^;]+; ")
_TAG = re.compile(r"<[^>]+>")
_NUMBER = re.compile(r"(\d+\.\d{2})\d+")


def inline_svg(drawn: Drawing) -> str:
    """The <svg> element, without what only a file of its own needs."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context(STYLE):
        drawn.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    width, height = (round(float(side)) for side in _sides(text))
    text = re.sub(
        r"<svg [^>]*>",
        f'<svg role="img" aria-label="{_attribute(drawn.title)}" viewBox="0 0 {width} {height}" '
        f'style="width:{round(width * 1.3)}px" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">',
        text, count=1,
    )  # fmt: skip
    used = {name for _, name in _REFERENCE.findall(text)}
    text = _TAG.sub(
        lambda tag: _as_pages_have_it(tag[0], drawn.name, used), text
    )  # what tags enclose is a user's words
    return re.sub(r"<defs>\s*</defs>", "", re.sub(r">\s+<", "><", text)).strip()


def _as_pages_have_it(tag: str, name: str, used: set[str]) -> str:
    tag = _ID.sub(lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", tag)
    tag = _REFERENCE.sub(lambda found: f"{found[1]}#{name}-{found[2]}", tag)
    tag = _COLOUR.sub(lambda found: f"var(--{VARIABLES[found[0]]})", tag)
    return " ".join(_NUMBER.sub(r"\1", _FONT.sub("", tag)).split())


def _sides(text: str) -> tuple[str, str]:
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert found is not None, "matplotlib names the box of every figure"
    return found[1], found[2]


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
