"""The command line as scripts use it: JSON on standard output, messages on standard error, exit statuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import html5lib
import pytest
import yaml
from typer.testing import CliRunner

from launch.cli import app
from rnet import __version__
from tests.tiny_runs import TINY, TINY_FINETUNE, TINY_IPGUARD, TINY_REMOVALNET

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("train", "attack", "fingerprint", "verify", "demo")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def rnet(*arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of one command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_root_and_json(command: str) -> None:
    code, out, _ = rnet(command, "--help")
    assert code == 0
    assert "--root" in out
    assert "--json" in out


def test_attack_gives_its_result_as_json(root: Path) -> None:
    code, out, _ = rnet("attack", "--root", root, "--json", *TINY, *TINY_FINETUNE)
    found = json.loads(out)
    assert code == 0
    assert {"accuracy", "drop", "agreement", "victim_accuracy"} <= found["result"].keys()
    assert Path(found["folder"], "model.safetensors").is_file()


def test_verify_takes_several_attacks_and_judges_them_against_negatives(root: Path) -> None:
    code, out, _ = rnet(
        "verify", "--root", root, "--json", *TINY, "attack=identity,independent", "negatives=2", *TINY_IPGUARD
    )
    rows = json.loads(out)["rows"]
    metric = rows[0]["metrics"]["ipguard/matching_rate"]
    assert code == 0
    assert rows[0]["suspect"] == "identity"
    assert metric["value"] == 1.0
    assert metric["direction"] == "similarity"
    assert rows[0]["verdict"] in ("derived", "independent", "undecided")


def test_verify_without_negatives_is_undecided_and_says_what_to_add(root: Path) -> None:
    _, out, _ = rnet("verify", "--root", root, "--json", *TINY, "attack=identity", *TINY_IPGUARD)
    row = json.loads(out)["rows"][0]
    assert row["verdict"] == "undecided"
    assert "at least 2" in row["reason"]


def test_verify_shows_a_table(root: Path) -> None:
    code, out, _ = rnet("verify", "--root", root, *TINY, "attack=identity", *TINY_IPGUARD)
    assert code == 0
    assert "ipguard/matching_rate" in out
    assert "none" in out  # without negatives there is no threshold


def test_print_config_shows_what_is_hashed_and_computes_nothing(tmp_path: Path) -> None:
    code, out, _ = rnet("attack", "--root", tmp_path / "runs", "--print-config", *TINY, *TINY_REMOVALNET)
    document = yaml.safe_load(out)
    assert code == 0
    assert document["hashed"]["attack"]["iterations"] == 6
    assert document["run"]["engine"]["device"] == "cpu"
    assert not (tmp_path / "runs").exists()


def test_a_mistake_is_one_clear_message_with_status_2(tmp_path: Path) -> None:
    code, out, err = rnet("attack", "--root", tmp_path / "runs", "attack.iteration=3")
    assert (code, out) == (2, "")
    assert err.startswith("rnet: ")
    assert "attack.iterations" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = rnet("train", "--root", tmp_path / "file", *TINY)
    assert code == 2
    assert "--root" in err


def test_python_m_rnet_finds_what_the_command_line_made(root: Path) -> None:
    _, out, _ = rnet("attack", "--root", root, "--json", *TINY, *TINY_FINETUNE)
    command = [sys.executable, "-m", "rnet", "attack", "--root", str(root), "--json", *TINY, *TINY_FINETUNE]
    again = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert json.loads(again.stdout) == json.loads(out)


@pytest.mark.slow
def test_both_command_lines_share_files_with_the_group_of_a_shared_store(tmp_path: Path) -> None:
    for number, module in enumerate(("rnet", "launch.cli")):
        root = tmp_path / str(number)
        root.mkdir()
        root.chmod(0o2770)
        command = [sys.executable, "-m", module, "train", "--root", str(root), *TINY]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        (result,) = root.glob("train/*/result.json")
        assert result.stat().st_mode & 0o060 == 0o060, module


def test_the_version_is_an_option_of_both_command_lines() -> None:
    assert rnet("--version") == (0, f"{__version__}\n", "")
    shown = subprocess.run([sys.executable, "-m", "rnet", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert shown.stdout == f"{__version__}\n"


def test_list_and_explain_answer_in_tables_and_json() -> None:
    code, out, _ = rnet("list", "attacks")
    assert code == 0
    assert "removalnet" in out
    _, out, _ = rnet("list", "defenses", "--json")
    assert {"name", "summary", "origin", "profiles"} == json.loads(out)["options"][0].keys()
    _, out, _ = rnet("explain", "attack.rho", "--json")
    (row,) = json.loads(out)["keys"]
    assert (row["key"], row["type"], row["value"]) == ("attack.rho", "float", 0.02)
    assert "shuffle permutes" in row["meaning"]
    code, out, _ = rnet("explain", "defense=ipguard")
    assert code == 0
    assert "defense.num_queries" in out


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    code, _, err = rnet("list", "attack")
    assert code == 2
    assert "did you mean attacks" in err


def test_help_points_to_the_keys_of_components() -> None:
    _, out, _ = rnet("attack", "--help")
    assert "rnet explain attack=removalnet" in " ".join(out.split())


def test_the_demo_gives_rows_with_the_promised_keys_and_a_page(root: Path) -> None:
    small = [*TINY, "attack.iterations=4", "attack.substitute_size=48", "attack.batch_size=16", "negatives=2"]
    code, out, _ = rnet("demo", "--root", root, "--json", *small, *TINY_IPGUARD[1:])
    found = json.loads(out)
    assert code == 0
    keys = {"suspect", "accuracy", "drop", "agreement", "matching_rate", "verdict", "seconds"}
    assert all(keys <= row.keys() for row in found["rows"])
    names = [row["suspect"] for row in found["rows"]]
    assert names[:3] == ["victim", "finetune", "removalnet"]
    assert len(names) == 5
    assert found["rows"][0]["matching_rate"] == 1.0
    text = Path(found["page"]).read_text()
    html5lib.HTMLParser(strict=True).parse(text)
    assert "<strong>Verdict.</strong> By ipguard: " in text
    for place in ("scores-digits-resnet8", "queries", "saliency", "planes", "embedding", "table-rows"):
        assert f'id="{place}"' in text


@pytest.mark.slow
def test_the_benchmark_compares_both_ways_of_every_defence_in_one_run(root: Path) -> None:
    code, out, err = rnet("bench", "fingerprint", "--root", root, "--json", "rounds=1", *TINY)
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [row["name"].split()[0] for row in rows] == ["ipguard", "deepjudge", "zest"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["sequential_seconds"] / row["batched_seconds"])
        assert row["memory_mb"] < 4 * row["budget_mb"]
        assert row["batched_low"] <= row["batched_seconds"] <= row["batched_high"]
    assert [row["sequential_measured_on"].split()[0] for row in rows] == ["20", "4", "1"]


def test_the_benchmark_has_no_more_rounds_than_work(root: Path) -> None:
    code, _, err = rnet("bench", "fingerprint", "--root", root, "rounds=6", *TINY)
    assert code == 2
    assert "rounds=6 must be from 1 to 5" in err


def test_an_unknown_benchmark_is_refused() -> None:
    code, _, err = rnet("bench", "fingerprints")
    assert code == 2
    assert "did you mean fingerprint" in err


def test_import_shows_what_a_file_was_taken_for_and_how_it_does(root: Path, tmp_path: Path) -> None:
    code, out, _ = rnet("train", "--root", root, "--json", *TINY)
    file = tmp_path / "a=b, c.safetensors"
    file.write_bytes(Path(json.loads(out)["folder"], "model.safetensors").read_bytes())
    code, out, _ = rnet("import", file, "--root", root, "--json", *TINY)
    result = json.loads(out)["result"]
    assert code == 0
    assert {"architecture", "stem", "options", "mean", "std", "resize", "crop", "interpolation"} <= result[
        "import"
    ].keys()
    assert result["import"]["mean"]["how"] == "read"
    assert {"images", "reference", "warnings"} <= result["check"].keys()
    assert "training_samples" not in result
    code, out, _ = rnet("import", file, "--root", root, *TINY)
    assert code == 0
    assert all(word in out for word in ("architecture", "the file's metadata", "Check on your own images", "reference"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere/w.pt"], "'/nowhere/w.pt' does not exist; write rnet import FILE"),
        (["dataset=digits"], "'dataset=digits' does not exist; write rnet import FILE"),
        (["/tmp"], "'/tmp' is a folder"),
        ([__file__, "model.weights=x.pt"], "'model.weights=x.pt' names weights, and so does"),
        ([__file__], "was refused|cannot be read"),
    ],
)
def test_import_refuses_in_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    code, out, err = rnet(
        "import", *arguments, "--root", tmp_path / "runs", *(TINY if arguments[0] == __file__ else [])
    )
    assert (code, out) == (2, "")
    assert re.search(said, err)
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
