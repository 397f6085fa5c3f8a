"""`rnet verify` over several attacks, defences and seeds: verdicts on a terminal, tables as text, files and JSON."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rnet.command.app import make_app
from rnet.command.verdicts import show_verdicts
from rnet.report.formats import SUFFIXES
from rnet.report.tables import TABLES
from tests.tiny_runs import TINY

APP = make_app(completion=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def verify(root: Path, *arguments: object, attacks: str = "identity,permute") -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command."""
    line = [
        *TINY,
        "train.epochs=4",
        f"attack={attacks}",
        "defense=random,akh",
        "seed=0,1",
        "negatives=2",
        "defense.num_queries=20",
    ]
    result = CliRunner().invoke(APP, ["verify", *line, "--root", str(root), *(str(one) for one in arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_several_seeds_are_one_cell_and_attacks_go_by_the_names_that_were_typed(root: Path) -> None:
    code, out, err = verify(root, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    assert {row["attack"] for row in found["rows"]} == {"identity", "permute"}
    assert {row["suspect"] for row in found["rows"]} == {"identity", "permute"}
    assert list(found["tables"]) == [*TABLES]
    lines = found["tables"]["fidelity"]
    assert [(line["attack"], line["accuracy_seeds"]) for line in lines] == [("identity", 2), ("permute", 2)]
    assert {line["dataset"] for line in lines} == {"digits"}
    assert {(line["seed"], line["attack"]) for line in found["tables"]["rows"]} == {
        (seed, attack) for seed in (0, 1) for attack in ("identity", "permute")
    }
    assert len(found["tables"]["negatives"]) == 2 * 2 * 2  # two of each seed, with each defence
    assert {line["of"] for line in found["tables"]["effectiveness"]} == {2}


def test_a_terminal_shows_verdicts_separation_and_reasons(root: Path) -> None:
    code, out, _ = verify(root)
    assert code == 0
    assert "Ownership tests" in out
    assert "permute seed=1" in out
    assert "Derived against independent" in out
    assert "random/agreement" in out
    assert "whatever the distribution" in out  # what the verdicts promise, and what more negatives would buy


@pytest.mark.parametrize("kind", SUFFIXES)
def test_tables_are_written_in_every_format(kind: str, root: Path, tmp_path: Path) -> None:
    code, out, err = verify(root, "--format", kind, "--out", tmp_path / "tables")
    assert code == 0, err
    assert [Path(line).name for line in out.splitlines()] == [f"{name}.{SUFFIXES[kind]}" for name in TABLES]


def test_a_table_is_shown_as_text(root: Path) -> None:
    _, out, _ = verify(root, "--table", "rows", "--format", "csv")
    assert {line["attack"] for line in csv.DictReader(io.StringIO(out))} == {"identity", "permute"}
    _, out, _ = verify(root, "--table", "fidelity")
    assert out.startswith("## Fidelity")
    assert "| digits | resnet8 | permute |" in out


def test_a_wrong_format_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    code, out, err = verify(tmp_path / "new", "--format", "xml")
    assert (code, out) == (2, "")
    assert "markdown" in err
    assert not (tmp_path / "new" / "train").exists()


def test_no_threshold_is_said_to_be_none_and_what_is_wrong_with_negatives_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metric = {"value": 3.0, "threshold": None, "normalised": None, "verdict": "undecided"}
    row = {
        "suspect": "finetune", "attack": "finetune", "defense": "zest", "accuracy": None, "drop": None,
        "metrics": {"zest/l2": metric}, "verdict": "undecided", "reason": "few", "left_out": {},
        "negatives": {"why_left_out": "2 of 2 reach 19%", "warning": None},
        "combined": {"metrics": ["zest/l2", "akh/disagreement"], "verdict": "derived", "reason": "beyond all"},
    }  # fmt: skip
    show_verdicts([row])
    out = capsys.readouterr().out
    assert "none" in out
    assert "zest: 2 of 2 reach 19%" in out
    assert "finetune, all together: derived, beyond all" in out


def test_a_damaged_status_stops_no_table_and_a_damaged_result_is_named(root: Path, tmp_path: Path) -> None:
    store = shutil.copytree(root, tmp_path / "store")
    for path in store.glob("attack/*/status.json"):
        path.write_bytes(b"\xff")
    code, out, err = verify(store, "--table", "efficiency")
    assert code == 0, err
    assert "Efficiency" in out
    for path in store.glob("attack/*/result.json"):
        path.write_bytes(path.read_bytes().replace(b"0.", b"1.", 1))
    code, _, err = verify(store, "--table", "efficiency")
    assert code == 2
    assert "is damaged" in err
