"""The pages say what is there: examples are files that tests run, links lead somewhere, commands exist.

python -m tests.test_documents          copies the files named by `<!-- include: PATH -->` into the pages
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from launch.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    str(page.relative_to(ROOT)) for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("slurm/*.md")]
)

INCLUDE = re.compile(r"<!-- include: (?P<path>\S+) -->\n(\n?```python\n(?P<text>.*?)```\n)?", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")


def with_files(page: str) -> str:
    """The page with each included file below its marker, whatever was there."""

    def block(match: re.Match[str]) -> str:
        return f"<!-- include: {match['path']} -->\n```python\n{(ROOT / match['path']).read_text()}```\n"

    return INCLUDE.sub(block, page)


@pytest.mark.parametrize("page", [page for page in PAGES if INCLUDE.search((ROOT / page).read_text())])
def test_examples_are_the_files_that_tests_run(page: str) -> None:
    text = (ROOT / page).read_text()
    assert text == with_files(text), "run python -m tests.test_documents"


def test_every_recipe_is_an_example() -> None:
    shown = {Path(match["path"]).stem for match in INCLUDE.finditer((ROOT / "CONTRIBUTING.md").read_text())}
    assert shown == {"dataset", "model", "attack", "defense", "engine"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    broken = []
    for path, heading in LINK.findall((ROOT / page).read_text()):
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (heading and heading not in headings(target)):
            broken.append(f"{path}#{heading}" if heading else path)
    assert not broken


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_lists_the_commands_that_exist() -> None:
    shown = set(re.findall(r"^\| `rnet (\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert shown == set(typer.main.get_command(app).commands) - {"version"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_ascii_and_their_lines_fit_a_terminal(page: str) -> None:
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        assert line.isascii() or line.startswith(("┃", "┡", "│")), f"{page}:{number}"
        assert len(line) <= 160 or line.startswith("|"), f"{page}:{number} has {len(line)} characters"


if __name__ == "__main__":
    for name in PAGES:
        (ROOT / name).write_text(with_files((ROOT / name).read_text()))
