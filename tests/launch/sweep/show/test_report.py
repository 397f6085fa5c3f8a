"""`rnet sweep report`: rows judged from what is in the store, what is missing with its reason, and every format."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launch.sweep.cli import sweep_app
from launch.sweep.plan.plan import Plan, save_plan
from launch.sweep.show import study as studies
from launch.sweep.show.study import study_of
from rnet.config.documents import run_from_dict
from rnet.report.formats import SUFFIXES
from rnet.report.tables import TABLES, make_tables
from rnet.stages.stages import STAGES
from rnet.stages.store import Store, read_result
from rnet.storage.json_files import write_json
from tests.launch.sweep.sweeps import TINY, finish, tiny_plan

AXES = {
    "dataset": ["digits"], "model": ["resnet8"], "attack": ["identity", "finetune"], "defense": ["ipguard", "zest"],
    "seed": [0, 1],
}  # fmt: skip


def report(folder: Path, *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command on the tiny sweep."""
    whole = ["report", folder / "tiny.yaml", "--root", folder / "store", *arguments]
    result = CliRunner().invoke(sweep_app, [str(argument) for argument in whole])
    return result.exit_code, result.stdout, result.stderr


def finished(folder: Path, **changes: Any) -> Plan:
    """A saved plan of which every cell has a result: fine-tuned copies score .8, negatives less, in steps of .1."""
    plan = tiny_plan(folder, **({"set": ["negatives=5"], "axes": AXES, "cases": None} | changes))
    save_plan(plan, folder / "store")
    copies = {row.cells["attack"] for row in plan.rows if row.values["attack"] == "finetune"}
    negatives = {place for row in plan.rows for place in row.negatives}
    for place, cell in enumerate(plan.cells):
        result: dict[str, Any] = {}
        if cell.stage == "attack":
            result = {"accuracy": 0.9, "victim_accuracy": 0.92, "drop": 0.02, "agreement": 0.95,
                      "derived": place in copies, "cost": {"flops": 10, "iterations": 4}}  # fmt: skip
        if cell.stage == "verify":
            rate = (place % 7) / 10 if place in negatives else 0.8
            names = [f"zest/{name}" for name in ("l1", "l2", "linf", "cosine")]
            scores = {"ipguard/matching_rate": rate} | dict.fromkeys(names, 1 - rate)
            defense = plan.setting(cell, "defense")["name"]
            result = {"scores": {name: value for name, value in scores.items() if name.startswith(defense)}}
        finish(folder / "store", cell.label, json.dumps(result))
        write_json(folder / "store" / cell.label / "status.json", {"state": "done", "seconds": 2.5})
    return plan


def lines(folder: Path, table: str) -> list[dict[str, Any]]:
    """A table's lines, by the command."""
    _, out, err = report(folder, "--format", "json", "--table", table)
    assert not err, err
    return json.loads(out)[table]


def test_every_row_is_there_with_its_scores_and_verdicts(tmp_path: Path) -> None:
    finished(tmp_path)
    code, out, err = report(tmp_path, "--format", "csv")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 2 * 2 * (1 + 4)
    ours = [row for row in rows if row["attack"] == "finetune" and row["metric"] == "ipguard/matching_rate"]
    assert [(row["seed"], row["score"], row["negatives"], row["state"]) for row in ours] == [
        ("0", "0.8", "5", "done"), ("1", "0.8", "5", "done"),
    ]  # fmt: skip
    assert {row["seed"] for row in lines(tmp_path, "rows")} == {0, 1}  # numbers


def test_cells_of_several_seeds_are_summarised(tmp_path: Path) -> None:
    finished(tmp_path)
    (line,) = [line for line in lines(tmp_path, "fidelity") if line["attack"] == "finetune"]
    assert (line["accuracy_mean"], line["accuracy_seeds"], line["planned"]) == (0.9, 2, 2)
    (line,) = [line for line in lines(tmp_path, "efficiency") if line["attack"] == "finetune"]
    assert (line["flops_mean"], line["seconds_mean"], line["seconds_seeds"]) == (10, 2.5, 2)
    names = {(line["attack"], line["metric"]) for line in lines(tmp_path, "effectiveness")}
    assert ("finetune", "zest/l2") in names
    assert len(names) == 2 * 5


def test_derived_suspects_of_all_seeds_are_separated_from_their_negatives(tmp_path: Path) -> None:
    finished(tmp_path)
    found = lines(tmp_path, "separation")
    assert {line["attack"] for line in found} == {"finetune"}  # the identity's results say that it is not derived
    assert {(line["positives"], line["negatives"], line["auc"]) for line in found} == {(2, 10, 1.0)}
    assert len(found) == 5
    assert "seed" not in found[0]


def test_negatives_and_thresholds_are_listed_once_per_victim_and_defence(tmp_path: Path) -> None:
    finished(tmp_path)
    found = lines(tmp_path, "negatives")
    assert len(found) == 2 * 5 * (1 + 4)
    assert {line["negative_seed"] for line in found} == {1000, 1001, 1002, 1003, 1004, 2000, 2001, 2002, 2003, 2004}
    found = lines(tmp_path, "thresholds")
    assert len(found) == 2 * (1 + 4)
    assert {line["n"] for line in found} == {5}
    assert all(line["threshold"] is not None or line["reason"] for line in found)


def test_what_is_not_finished_says_why(tmp_path: Path) -> None:
    plan = finished(tmp_path)
    root = tmp_path / "store"
    row = next(row for row in plan.rows if row.values == {**row.values, "attack": "finetune", "seed": "1"})
    attack, verify = (plan.cells[row.cells[stage]] for stage in ("attack", "verify"))
    (root / verify.label / "result.json").unlink()
    code, _, _ = report(tmp_path, "--table", "rows")
    assert code == 1  # a row is missing
    said = [line["state"] for line in lines(tmp_path, "rows") if line["verify_id"] == verify.id]
    assert said == ["missing: not submitted"]
    (root / attack.label / "result.json").unlink()
    attempt = {"state": "failed", "error": "Traceback:\nloss/total is nan at step 10", "job": None, "pid": os.getpid(),
               "host": "here", "started": 0.0, "updated": 0.0, "beats": 1, "seconds": 1.0}  # fmt: skip
    write_json(root / "attempts" / "attack" / f"{attack.id}.0001.json", attempt)
    said = [line["state"] for line in lines(tmp_path, "rows") if line["attack_id"] == attack.id]
    assert set(said) == {"missing: failed: loss/total is nan at step 10"}
    (line,) = [line for line in lines(tmp_path, "fidelity") if line["attack"] == "finetune"]
    assert (line["accuracy_seeds"], line["planned"]) == (1, 2)
    assert line["missing"] == "1 of 2 missing: failed: loss/total is nan at step 10"


def test_an_empty_store_gives_tables_of_what_is_missing(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, axes=AXES, cases=None)
    save_plan(plan, tmp_path / "store")
    code, out, err = report(tmp_path)
    assert (code, err) == (1, "")
    of_suspects, of_tests = 2 * 2, 2 * 4  # fidelity and efficiency; effectiveness and verdicts
    assert out.count("2 of 2 missing: not submitted") == of_suspects + of_tests
    assert {line["state"] for line in lines(tmp_path, "rows")} == {"missing: not submitted"}


def test_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = finished(tmp_path)
    opened: list[Path] = []

    def read(folder: Path) -> Mapping[str, Any] | None:
        opened.append(folder)
        return read_result(folder)

    monkeypatch.setattr(studies, "read_result", read)
    make_tables(study_of(plan, tmp_path / "store"))
    assert len(opened) == len(set(opened)) > len(plan.cells) / 2


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_folder_gets_a_file_for_each_table_with_the_same_bytes_each_time(kind: str, tmp_path: Path) -> None:
    finished(tmp_path)
    written = []
    for name in ("first", "second"):
        code, out, err = report(tmp_path, "--format", kind, "--out", tmp_path / name)
        assert (code, err) == (0, "")
        paths = [Path(line) for line in out.splitlines()]
        assert [path.name for path in paths] == [f"{table}.{SUFFIXES[kind]}" for table in TABLES]
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]


def test_attacks_go_by_the_names_that_the_sweep_gave_them(tmp_path: Path) -> None:
    axes = {**AXES, "attack": ["permute", "rescale_channels", "removalnet_latent", "removalnet"]}
    finished(tmp_path, axes=axes)
    assert [line["attack"] for line in lines(tmp_path, "fidelity")] == axes["attack"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "xml"], "markdown"),
        (["--table", "efficency"], "efficiency"),
        (["--format", "parquet"], "--out"),
        (["--format", "csv", "--table", "rows", "--table", "fidelity"], "--out"),
    ],
)
def test_mistakes_are_refused_with_what_there_is(arguments: list[str], said: str, tmp_path: Path) -> None:
    save_plan(tiny_plan(tmp_path), tmp_path / "store")
    code, out, err = report(tmp_path, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_sweep_that_ends_with_its_attacks_has_tables_of_fidelity_and_costs(tmp_path: Path) -> None:
    axes = {name: values for name, values in AXES.items() if name != "defense"}
    plan = tiny_plan(tmp_path, until="attack", axes=axes, cases=None)
    save_plan(plan, tmp_path / "store")
    for cell in plan.cells:
        finish(tmp_path / "store", cell.label, json.dumps({"accuracy": 0.5, "derived": True}))
    _, out, _ = report(tmp_path, "--format", "json")
    assert list(json.loads(out)) == ["fidelity", "efficiency", "rows"]
    code, _, err = report(tmp_path, "--table", "separation")
    assert code == 2
    assert "no verify stages" in err


def test_a_real_sweep_is_reported_in_all_formats(tmp_path: Path) -> None:
    axes = {"dataset": ["digits"], "model": ["resnet8"], "attack": ["permute", "finetune"], "defense": ["random"],
            "seed": [0, 1]}  # fmt: skip
    common = [line for line in TINY["set"] if "epochs" not in line]
    plan = tiny_plan(tmp_path, axes=axes, set=[*common, "train.epochs=4", "negatives=2"], cases=TINY["cases"][:1])
    save_plan(plan, tmp_path / "store")
    for cell in plan.cells:
        STAGES[cell.stage](run_from_dict(plan.configuration(cell)), Store(tmp_path / "store"))
    for kind in SUFFIXES:
        code, _, err = report(tmp_path, "--format", kind, "--out", tmp_path / kind)
        assert (code, err) == (0, "")
    (line,) = [line for line in lines(tmp_path, "efficiency") if line["attack"] == "finetune"]
    assert (line["iterations_mean"], line["substitute_samples_mean"], line["flops_seeds"]) == (4, 48, 2)
    assert line["seconds_mean"] > 0
    (line,) = [line for line in lines(tmp_path, "effectiveness") if line["attack"] == "permute"]
    assert (line["metric"], line["score_mean"], line["of"]) == ("random/agreement", 1.0, 2)
    assert {line["accuracy"] is None for line in lines(tmp_path, "negatives")} == {False}
    assert {line["verdict"] is None for line in lines(tmp_path, "rows")} == {False}


def test_the_page_of_a_sweep_has_its_verdict_figures_tables_and_file(tmp_path: Path) -> None:
    finished(tmp_path)
    code, out, err = report(tmp_path, "--format", "html", "--out", tmp_path / "page")
    assert (code, err, out) == (0, "", f"{tmp_path / 'page' / 'report.html'}\n")
    text = (tmp_path / "page" / "report.html").read_text()
    assert "By 2 defences together: " in text
    assert all(f'id="table-{name}"' in text for name in TABLES)
    assert all(f'id="{name}-' in text for name in ("scores", "roc", "cost"))
    assert "axes:\n  dataset:\n  - digits" in text  # the sweep's own file
    code, out, _ = report(tmp_path, "--format", "html", "--table", "verdicts")
    assert out.startswith("<!DOCTYPE html>")
    assert 'id="table-verdicts"' in out
    assert 'id="table-rows"' not in out


def test_the_page_of_an_unfinished_sweep_ends_with_status_1_and_says_what_is_missing(tmp_path: Path) -> None:
    plan = finished(tmp_path)
    row = next(row for row in plan.rows if row.values == {**row.values, "attack": "finetune", "seed": "1"})
    (tmp_path / "store" / plan.cells[row.cells["verify"]].label / "result.json").unlink()
    code, text, _ = report(tmp_path, "--format", "html")
    assert code == 1
    assert "1 of 8 tests are missing (not submitted)" in text
    assert "Not shown, because incomplete: finetune, ipguard/matching_rate: not submitted" in text


def test_the_page_of_500_cells_is_smaller_than_5_mb(tmp_path: Path) -> None:
    axes = {**AXES, "attack": ["identity", "finetune", "distill", "prune"], "seed": [*range(19)]}
    plan = finished(tmp_path, axes=axes)
    assert len(plan.cells) >= 500
    code, text, _ = report(tmp_path, "--format", "html")
    assert code == 0
    assert 100_000 < len(text.encode()) < 5_000_000


def test_two_stores_of_a_sweep_stand_side_by_side_with_their_differences(tmp_path: Path) -> None:
    plan = finished(tmp_path)
    shutil.copytree(tmp_path / "store", tmp_path / "other")
    for row in plan.rows:
        label = plan.cells[row.cells["attack"]].label
        if row.values["attack"] == "finetune":
            finish(tmp_path / "other", label, json.dumps({"accuracy": 0.8, "derived": True}))
        elif row.values["seed"] == "1":
            (tmp_path / "other" / label / "result.json").unlink(missing_ok=True)
    code, out, err = report(tmp_path, "--compare", tmp_path / "other", "--format", "json")
    assert (code, err) == (0, "")
    found = {(line["attack"], line["quantity"]): line for line in json.loads(out)["comparison"]}
    line = found["finetune", "accuracy"]
    assert (line["first"], line["second"]) == (pytest.approx(0.9), pytest.approx(0.8))
    assert line["difference"] == pytest.approx(-0.1)
    assert line["missing"] is None
    assert found["finetune", "victim_accuracy"]["difference"] is None
    assert "missing" in found["finetune", "victim_accuracy"]["missing"]
    assert "1 of 2 missing: not submitted" in found["identity", "accuracy"]["missing"]
    assert found["identity", "accuracy"]["difference"] == pytest.approx(0)
    assert found["finetune", "ipguard/matching_rate"]["difference"] == pytest.approx(0)
    code, out, _ = report(tmp_path, "--compare", tmp_path / "other", "--format", "html")
    assert 'id="table-comparison"' in out


def test_a_sweep_to_compare_with_must_have_been_submitted(tmp_path: Path) -> None:
    finished(tmp_path)
    code, _, err = report(tmp_path, "--compare", tmp_path)
    assert code == 2
    assert "rnet sweep submit" in err
