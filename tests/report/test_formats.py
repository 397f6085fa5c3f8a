"""The same tables in every format: numbers stay numbers for programs, and names survive Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from rnet.errors import UserError
from rnet.report import formats
from rnet.report.formats import SUFFIXES, check_format, flat, text_of, write_tables
from rnet.report.latex import LONG, latex
from rnet.report.markdown import markdown
from rnet.report.statistics import summary
from rnet.report.table import MISSING, PLANNED, Column, Table, percent
from rnet.report.tables import make_tables
from tests.report.studies import study, trial, unfinished

ODD = 'a|b_c & 50% of {x} #1 $2 ~^\\ <i> "q", *z* [l](m) `n`\nnext'
"""What a user may call a file, and what an error may say."""


def table(**changes: Any) -> Table:
    known: dict[str, Any] = {
        "name": "t", "title": "Title", "notes": ("A note.",),
        "columns": [Column(name="attack"), Column(name="seed", kind="count"), percent("accuracy"),
                    Column(name="score", kind="number"), PLANNED, MISSING],
        "lines": [{"attack": "finetune", "seed": 3, "accuracy": summary([0.9, 0.92]), "score": 1234.5678}],
    }  # fmt: skip
    return Table(**(known | changes))


def odd() -> Table:
    return table(lines=[{"attack": ODD, "seed": 3, "accuracy": None, "score": None, "missing": "2 missing"}])


def test_numbers_stay_numbers_and_a_mean_has_its_spread_interval_and_seeds_beside() -> None:
    (line,) = flat(table())
    assert line == {
        "attack": "finetune", "seed": 3, "accuracy_mean": pytest.approx(0.91),
        "accuracy_spread": pytest.approx(0.0141421, abs=1e-6), "accuracy_low": pytest.approx(0.7829, abs=1e-4),
        "accuracy_high": pytest.approx(1.0371, abs=1e-4), "accuracy_seeds": 2, "score": 1234.5678, "planned": None,
        "missing": None,
    }  # fmt: skip
    assert type(json.loads(text_of([table()], "json"))["t"][0]["seed"]) is int


def test_what_is_not_finite_is_null_in_json() -> None:
    text = text_of([table(lines=[{"score": float("nan")}, {"score": float("inf")}])], "json")
    assert [line["score"] for line in json.loads(text)["t"]] == [None, None]
    assert "NaN" not in text


def test_people_read_percent_with_spread_interval_and_seeds() -> None:
    text = markdown(table())
    assert "| attack | seed | accuracy (%) | score |\n| --- | ---: | --- | ---: |\n" in text
    assert "| finetune | 3 | 91.0 \u00b1 1.4 (78.3 to 103.7, n=2) | 1235 |" in text
    assert text.endswith("- A note.\n")


def test_one_seed_is_shown_as_one() -> None:
    text = markdown(table(lines=[{"accuracy": summary([0.9])}]))
    assert "90.0 (n=1)" in text


def test_no_threshold_is_none_to_people_and_null_to_programs() -> None:
    (one,) = make_tables(study(), ["thresholds"])
    assert "| none | they spread too widely |" in markdown(one)
    assert flat(one)[0]["threshold"] is None


def test_how_many_seeds_were_planned_is_shown_where_some_are_missing() -> None:
    line = {"attack": "x", "accuracy": summary([0.9]), "planned": 3}
    assert "seeds planned" not in markdown(table(lines=[line]))
    assert "seeds planned" in markdown(table(lines=[line | {"missing": "2 of 3 missing: running"}]))


def test_markdown_shows_odd_names_as_they_are_on_one_line() -> None:
    row = markdown(odd()).splitlines()[4]
    cells = re.split(r"(?<!\\)\|", row)
    assert len(cells) == 2 + 6
    unescaped = re.sub(r"\\([\\`*|<\[\]])", r"\1", cells[1].strip())
    assert unescaped == ODD.replace("\n", " ")
    assert re.search(r"(?<!\\)[*<`\[]", row) is None


def test_csv_returns_odd_names_as_they_were() -> None:
    (line,) = csv.DictReader(io.StringIO(text_of([odd()], "csv")))
    assert line["attack"] == ODD
    assert line["accuracy_mean"] == ""


def test_latex_escapes_what_it_would_read_as_commands() -> None:
    text = latex(odd())
    body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    assert body.count("\n") == 1
    assert body.count(" & ") == 5
    for written in (
        r"a\textbar{}b\_c \& 50\% of \{x\} \#1 \$2", r"\textasciitilde{}\textasciicircum{}\textbackslash{}",
        r"\textless{}i\textgreater{}", r"\textquotedbl{}q\textquotedbl{}",
    ):  # fmt: skip
        assert written in body


def test_latex_sets_means_with_their_spread_and_large_numbers_as_powers() -> None:
    text = latex(table(lines=[{"attack": "finetune", "accuracy": summary([0.9, 0.92]), "score": 1.25e12}]))
    assert r"$91.0 \pm 1.4$ {\footnotesize ([$78.3$, $103.7$], $n=2$)} & $1.25 \times 10^{12}$ \\" in text
    for command in ("\\toprule", "\\midrule", "\\bottomrule", "\\label{tab:t}", r"accuracy (\%)"):
        assert command in text
    assert text.count("{") == text.count("}")


def test_a_long_latex_table_breaks_over_pages() -> None:
    line = {"attack": "finetune"}
    assert "longtable" not in latex(table(lines=[line] * LONG))
    text = latex(table(lines=[line] * (LONG + 1)))
    assert "\\begin{longtable}" in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("kind", SUFFIXES)
def test_every_table_is_written_in_every_format_with_the_same_bytes_each_time(kind: str, tmp_path: Path) -> None:
    odd_ones = study(unfinished("removalnet", "zest", 1, ODD), trial("finetune", "zest", 0, scores=[]))
    first, second = tmp_path / "first", tmp_path / "second"
    paths = write_tables(make_tables(odd_ones), kind, first)
    write_tables(make_tables(odd_ones), kind, second)
    assert [path.name for path in paths] == [f"{t.name}.{SUFFIXES[kind]}" for t in make_tables(odd_ones)]
    for path in paths:
        assert path.read_bytes() == (second / path.name).read_bytes()
        assert path.stat().st_size > 0


def test_parquet_has_typed_columns_and_the_same_lines(tmp_path: Path) -> None:
    tables = make_tables(study(unfinished("removalnet", "zest", 1, "running")))
    for path, one in zip(write_tables(tables, "parquet", tmp_path), tables, strict=True):
        read = parquet.read_table(path)
        assert read.to_pylist() == flat(one)
    types = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "rows.parquet")}
    assert (types["seed"], types["score"], types["attack"]) == ("int64", "double", "string")
    types = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "fidelity.parquet")}
    assert (types["accuracy_mean"], types["accuracy_seeds"]) == ("double", "int64")


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install"):
        write_tables([table()], "parquet", tmp_path)


def test_impossible_outputs_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="markdown"):
        check_format("xml", ["rows"], None)
    with pytest.raises(UserError, match="--out"):
        check_format("parquet", ["rows"], None)
    with pytest.raises(UserError, match="--table"):
        check_format("csv", ["rows", "fidelity"], None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name a folder"):
        check_format("csv", ["rows", "fidelity"], tmp_path / "file")
    for kind in formats.SUFFIXES:
        check_format(kind, ["rows", "fidelity"], tmp_path / "new")


def test_an_empty_table_is_said_to_be_empty() -> None:
    empty = table(lines=[])
    assert "Nothing to show" in markdown(empty)
    assert latex(empty).startswith("% ")
    assert text_of([empty], "csv").startswith("attack,seed,accuracy_mean")
