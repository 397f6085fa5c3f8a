"""`rnet report`: a page about suspects or about one stage; what cannot be meant is refused with the remedy."""

from __future__ import annotations

import json
from pathlib import Path

import html5lib
import pytest
from typer.testing import CliRunner

from rnet.command.app import make_app
from rnet.storage.json_files import write_json
from tests.tiny_runs import TINY, TINY_FINETUNE, TINY_IPGUARD

APP = make_app(completion=False)
SUSPECTS = [*TINY, *TINY_FINETUNE, *TINY_IPGUARD, "negatives=2"]


def report(*arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command."""
    result = CliRunner().invoke(APP, ["report", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a suspect, its test and two negatives; page/ has their page."""
    folder = tmp_path_factory.mktemp("report")
    code, out, err = report(*SUSPECTS, "--root", folder / "store", "--out", folder / "page")
    assert code == 0, err
    assert out == f"{folder / 'page' / 'report.html'}\n"
    return folder / "store"


def test_the_page_of_suspects_has_verdict_figures_tables_and_the_command(root: Path) -> None:
    text = (root.parent / "page" / "report.html").read_text()
    html5lib.HTMLParser(strict=True).parse(text)
    assert "<strong>Verdict.</strong> By ipguard: finetune" in text
    for place in ("scores-digits-resnet8", "curves-digits-resnet8", "cost-digits-resnet8", "table-rows"):
        assert f'id="{place}"' in text
    assert f"rnet report {' '.join(SUSPECTS)}" in text
    assert f"attack/{next((root / 'attack').iterdir()).name}"[:7] in text


@pytest.mark.parametrize("stage", ["train", "attack", "fingerprint", "verify"])
def test_every_stage_has_a_page(root: Path, stage: str) -> None:
    label = f"{stage}/{sorted(path.name for path in (root / stage).iterdir())[0]}"
    code, out, err = report(label, "--root", root, "--out", root.parent / "one")
    assert (code, err) == (0, "")
    text = Path(out.strip()).read_text()
    html5lib.HTMLParser(strict=True).parse(text)
    assert label in text
    assert ('id="curves"' in text) == (stage in ("train", "attack"))
    assert ('id="table-tests"' in text) == (stage == "attack")


def test_a_stage_as_tables(root: Path) -> None:
    label = f"attack/{next((root / 'attack').iterdir()).name}"
    code, out, _ = report(label, "--root", root, "--format", "json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == ["tests", "result", "settings", "run", "classes"]
    assert {line["name"] for line in found["result"]} >= {"accuracy", "cost.flops"}


def test_the_page_of_an_unfinished_stage_says_so_at_the_top_and_in_its_figure(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "attack" / "0123456789abcdef"
    folder.mkdir(parents=True)
    source = next((root / "attack").iterdir())
    (folder / "config.yaml").write_bytes((source / "config.yaml").read_bytes())
    (folder / "log.jsonl").write_text(
        '{"step": 0, "time": 1.0, "loss/total": 2.0}\n{"step": 1, "time": 2.0, "loss/total": NaN}\n{"ste'
    )
    write_json(folder / "status.json", {"state": "failed", "error": "no <memory>", "step": 1, "total": 9})
    code, out, err = report("attack/0123456789abcdef", "--root", tmp_path, "--out", tmp_path / "page")
    assert (code, err) == (0, "")
    text = Path(out.strip()).read_text()
    assert "None: this stage is not finished (failed at step 1 of 9: no &lt;memory&gt;)" in text
    assert "the run is not finished, failed at step 1 of 9" in text
    assert "loss/total, step 1: value is nan" in text
    assert ">incomplete: 2 missing, see the caption</text>" in text


REFUSED = {
    ("attack/0123456789abcdef",): "rnet status",
    ("nothing",): "STAGE/ID",
    ("train/../../etc",): "STAGE/ID",
    ("attack/01", "seed=3"): "not both",
    ("attack/01", "attack/02"): "take the others out",
    ("attack/01", "--table", "rows"): "--table",
    ("attack=finetune", "--format", "xml"): "html",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code, _, err = report(*arguments, "--root", tmp_path)
    assert code == 2
    assert REFUSED[arguments] in err
    assert len(err.strip().splitlines()) == 1
