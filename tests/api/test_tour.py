"""docs/tour.ipynb runs from top to bottom, on its own, and says what it promises."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.parallel.multiprocess import REPOSITORY


@pytest.mark.slow
def test_the_tour_runs_and_its_verdicts_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(REPOSITORY / "docs" / "tour.ipynb", as_version=4)
    NotebookClient(book, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    said = "".join(output["text"] for output in outputs if output.output_type == "stream" and output.name == "stdout")
    verdicts = dict(re.findall(r"^(.+?) +accuracy .* (\w+)$", said, re.MULTILINE))
    assert verdicts.keys() == {"the victim", "fine-tuned", "RemovalNet", "innocent"}
    assert (verdicts["the victim"], verdicts["fine-tuned"]) == ("derived", "derived")
    assert verdicts["innocent"] != "derived"
    assert list((tmp_path / "curves" / "tensorboard").glob("events*"))


def test_the_tour_is_kept_small() -> None:
    assert (REPOSITORY / "docs" / "tour.ipynb").stat().st_size < 100_000
