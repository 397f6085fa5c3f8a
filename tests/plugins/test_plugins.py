"""The five plugins of this folder, each one file, from the command line, in a sweep and from Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import rnet

ROOT = Path(__file__).resolve().parents[2]
FILES = ("dataset", "model", "attack", "defense", "engine")
SMALL = [
    "dataset.images=200", "dataset.substitute_pool=40", "model.channels=4", "train.epochs=2", "train.batch_size=32",
    "defense.num_queries=20", "engine.watched_steps=3", "engine.device=cpu",
]  # fmt: skip


def chosen(package: str) -> dict[str, str]:
    """What each group is set to, with the plugins in this package."""
    names = {"dataset": "load_stripes", "model": "SmallNet", "attack": "Prune", "defense": "OutputDistance"}
    names["engine"] = "WatchfulEngine"
    return {group: f"{package}.{group}:{name}" for group, name in names.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder outside of everything with the plugins in mylab/, where commands are started."""
    (tmp_path / "mylab").mkdir()
    for name in FILES:
        shutil.copy(Path(__file__).parent / f"{name}.py", tmp_path / "mylab")
    return tmp_path


def rnet_command(folder: Path, *arguments: str) -> str:
    """Standard output of the script `rnet` started in a folder: like it, -P keeps the folder off Python's path."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "launch.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plugins_work_from_the_command_line(folder: Path) -> None:
    choices = [f"{group}={name}" for group, name in chosen("mylab").items()]
    out = rnet_command(
        folder, "verify", "--json", *choices, *SMALL, "train.epochs=20", "attack.rate=0.5", "negatives=2"
    )
    (row,) = json.loads(out)["rows"]
    assert row["attack"] == "mylab.attack:Prune"
    metric = row["metrics"]["mylab.defense:OutputDistance/total_variation"]
    assert 0 < metric["value"] < 1
    assert metric["threshold"] is not None, metric["reason"]
    result = json.loads((folder / "runs" / "attack" / row["attack_id"] / "result.json").read_text())
    assert result["cost"] == {"weights_removed": result["cost"]["weights_removed"]} != {"weights_removed": 0}


@pytest.mark.slow
def test_plugins_work_in_a_sweep(folder: Path) -> None:
    choices = chosen("mylab")
    axes: dict[str, Any] = {group: [name] for group, name in choices.items() if group != "engine"}
    axes["attack"] = ["identity", choices["attack"]]
    sweep = {"name": "mine", "cluster": "local", "axes": axes, "set": [f"engine={choices['engine']}", *SMALL]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(sweep))
    rnet_command(folder, "sweep", "submit", "mine.yaml", "--wait")
    lines = json.loads(rnet_command(folder, "sweep", "report", "mine.yaml", "--format", "json"))
    scores = {line["attack"]: line["score"] for line in (lines if isinstance(lines, list) else lines["rows"])}
    assert scores["identity"] == 0
    assert scores[choices["attack"]] > 0


def test_plugins_work_from_python(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    choices = [f"{group}={name}" for group, name in chosen("tests.plugins").items()]
    config = rnet.load_config([*choices, *SMALL])
    store = rnet.Store(tmp_path)
    suspect = rnet.attack(config, store)
    assert suspect.document["attack"]["rate"] == 0.3
    (row,) = rnet.examine([config], store)
    assert 0 < row["metrics"]["tests.plugins.defense:OutputDistance/total_variation"]["value"] < 1
    assert "watchful, 1 process, cpu, fp32, the first 3 steps watched" in caplog.text
    weights = rnet.load_model(config, suspect).backbone.classes.weight
    assert float((weights == 0).float().mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.classes=1", "dataset.classes=1 must be at least 2"),
        ("dataset.class=1", "did you mean dataset.classes"),
        ("attack.rate=1.5", "attack.rate=1.5 must lie between 0 and 1"),
        ("attack.rate=much", "attack.rate='much' must be a number"),
        ("defense.num_queries=0", "defense.num_queries=0 must be at least 1"),
        ("engine.watched=1", "did you mean engine.watched_steps"),
        ("model.channel=1", "did you mean model.channels"),
    ],
)
def test_keys_of_plugins_are_checked_like_all_others(tmp_path: Path, override: str, message: str) -> None:
    choices = [f"{group}={name}" for group, name in chosen("tests.plugins").items()]
    with pytest.raises(rnet.UserError) as refused:
        rnet.verify(rnet.load_config([*choices, *SMALL, override]), rnet.Store(tmp_path))
    assert message in str(refused.value)
