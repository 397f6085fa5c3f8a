"""The page in Chromium: axe-core's rules in both themes and at both widths, sorting, filtering, and no script at all.

Skipped where Chromium, playwright or axe-playwright-python is not installed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_page import PAGES

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def opened(browser: Any, folder: Path, name: str, **context: Any) -> Any:
    """The page of that name in a tab without a network; what its script says of errors fails the test."""
    path = folder / "report.html"
    path.write_text(PAGES[name]())
    tab = browser.new_context(offline=True, **context).new_page()
    tab.on("pageerror", lambda error: pytest.fail(str(error)))
    tab.goto(path.as_uri())
    return tab


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1366, 400])
@pytest.mark.parametrize("name", ["complete", "odd"])
def test_axe_finds_no_fault_and_nothing_overflows(
    browser: Any, tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    tab = opened(browser, tmp_path, name, viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = axe.Axe().run(tab).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    assert tab.evaluate("document.documentElement.scrollWidth") == width


def column(tab: Any, place: int) -> list[str]:
    """The cells of a column of the table of rows that are shown."""
    shown = tab.locator("#table-rows tbody tr:not([hidden])")
    return [row.locator("td").nth(place).inner_text() for row in shown.all()]


def test_a_table_is_sorted_and_filtered_with_the_keyboard_alone(browser: Any, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, "complete")
    heads = tab.locator("#table-rows th").all_inner_texts()
    place = heads.index("accuracy (%)")
    before = column(tab, place)
    head = tab.locator("#table-rows th").nth(place)
    head.locator("button").focus()
    tab.keyboard.press("Enter")
    assert column(tab, place) == sorted(before, key=float)
    assert head.get_attribute("aria-sort") == "ascending"
    tab.keyboard.press("Space")
    assert column(tab, place) == sorted(before, key=float, reverse=True)
    tab.locator("#table-rows input").focus()
    tab.keyboard.type("ZEST removalnet")
    assert set(column(tab, heads.index("attack"))) == {"removalnet"}
    assert set(column(tab, heads.index("defense"))) == {"zest"}
    assert tab.locator("#table-rows [role=status]").inner_text() == "2 of 12 lines"


def test_a_table_is_saved_as_csv(browser: Any, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, "complete")
    with tab.expect_download() as saved:
        tab.locator("#table-fidelity button", has_text="save as CSV").click()
    assert saved.value.suggested_filename == "fidelity.csv"
    text = Path(saved.value.path()).read_text()
    assert text.startswith('"dataset","model","attack","victim accuracy (%)"')
    assert text.count("\n") == 1 + 3


def test_without_scripts_the_whole_page_is_there(browser: Any, tmp_path: Path) -> None:
    tab = opened(browser, tmp_path, "complete", java_script_enabled=False)
    assert tab.locator("#table-rows tbody tr").count() == 12
    assert tab.locator("input, button").count() == 0
    assert tab.locator("figure svg").count() == 3
