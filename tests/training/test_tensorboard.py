"""What TensorBoard's own readers find of real runs: every tag of docs/monitoring.md, each step once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from rnet.training.monitor.layout import CHARTS
from tests.parallel.multiprocess import REPOSITORY, run_ranks
from tests.tiny_runs import TINY, TINY_REMOVALNET

STEPS = 60
EVERY = {"log": 2, "measure": 10, "probe": 4}
RUN = [
    *TINY, *TINY_REMOVALNET, f"attack.iterations={STEPS}", f"engine.log_every={EVERY['log']}",
    f"engine.eval_every={EVERY['measure']}", f"engine.probe_every={EVERY['probe']}", "engine.checkpoint_steps=7",
]  # fmt: skip
KEEP_ALL = {kind: 0 for kind in ("tensors", "scalars", "images", "histograms")}


def documented() -> list[dict[str, str]]:
    """The table of tags in docs/monitoring.md, those of CUDA left out."""
    page = (REPOSITORY / "docs" / "monitoring.md").read_text().partition("<!-- tags -->\n")[2].partition("\n\n")[0]
    names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    found = [dict(zip(names, row, strict=True)) for row in rows]
    return [row | {"tag": row["tag"].strip("`")} for row in found if row["of"] != "cuda"]


def steps_of(when: str, resumed: list[int]) -> list[int]:
    """At which steps a tag stands, where attempts began at the steps `resumed`, too."""
    if when in EVERY:
        last = STEPS - 1 if when == "log" else STEPS
        return sorted({*range(0, STEPS, EVERY[when]), last})
    return {"start": [0], "begin": sorted({0, *resumed}), "end": [STEPS]}[when]


def attack_folder(root: Path) -> Path:
    (folder,) = (root / "attack").iterdir()
    return folder


def last_logged(root: Path) -> int:
    """The step of the last whole line of the attack's log, -1 without one."""
    lines = [line for path in root.glob("attack/*/log.jsonl") for line in path.read_bytes().split(b"\n")[:-1]]
    return json.loads(lines[-1])["step"] if lines else -1


def kill_at(root: Path, step: int) -> None:
    """Starts the command and ends it by SIGKILL once it has logged that step."""
    command = [sys.executable, "-m", "rnet", "attack", *RUN, "--root", str(root)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
    ) as process:
        deadline = time.monotonic() + 120
        while last_logged(root) < step:
            assert time.monotonic() < deadline
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def killed_twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The root of a run that was killed twice and then finished, and the steps after which it resumed."""
    root = tmp_path_factory.mktemp("killed")
    resumed = []
    for step in (16, 34):
        kill_at(root, step)
        kept = attack_folder(root).glob("checkpoints/step-*.json")
        resumed.append(max(int(path.stem.removeprefix("step-")) for path in kept))
    end = subprocess.run(
        [sys.executable, "-m", "rnet", "attack", *RUN, "--root", str(root)], cwd=REPOSITORY, capture_output=True,
        text=True, timeout=180, check=True,
    )  # fmt: skip
    assert f"goes on after step {resumed[-1]}" in end.stderr
    assert 7 <= resumed[0] < resumed[1] < STEPS
    return root, resumed


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The root of a run by two processes."""
    root = tmp_path_factory.mktemp("two")
    for end in run_ranks("plain", "-m", "rnet", "attack", *RUN, "--root", root, timeout=180):
        assert end.returncode == 0, end.stderr
    return root, []


@pytest.mark.slow
@pytest.mark.parametrize("runs", ["killed_twice", "by_two"])
def test_every_documented_tag_has_each_of_its_steps_once(runs: str, request: pytest.FixtureRequest) -> None:
    root, resumed = request.getfixturevalue(runs)
    multiplexer = EventMultiplexer(tensor_size_guidance=KEEP_ALL, size_guidance=KEEP_ALL)
    multiplexer.AddRunsFromDirectory(str(attack_folder(root))).Reload()
    accumulator = EventAccumulator(str(attack_folder(root) / "tensorboard"), size_guidance=KEEP_ALL)
    accumulator.Reload()
    older = {"scalar": accumulator.Scalars, "histogram": accumulator.Histograms, "image": accumulator.Images}
    tags = {}
    for row in documented():
        tag = tags[row["tag"]] = row["tag"] + ("/text_summary" if row["kind"] == "text" else "")
        wanted = steps_of(row["when"], resumed)
        assert [event.step for event in multiplexer.Tensors("tensorboard", tag)] == wanted, tag
        read = older.get(row["kind"], accumulator.Tensors)
        assert [event.step for event in read(tag)] == wanted, tag
    known = {tag for tag in multiplexer.Runs()["tensorboard"]["tensors"] if not tag.startswith(("_hparams_", "custom"))}
    assert known == set(tags.values()), "what is written is documented, and nothing else is"


@pytest.mark.slow
@pytest.mark.parametrize("runs", ["killed_twice", "by_two"])
def test_the_charts_and_the_table_of_runs_are_there_once(runs: str, request: pytest.FixtureRequest) -> None:
    root, _ = request.getfixturevalue(runs)
    accumulator = EventAccumulator(str(attack_folder(root) / "tensorboard"), size_guidance=KEEP_ALL)
    accumulator.Reload()
    tags = accumulator.Tags()
    assert len(accumulator.Tensors("custom_scalars__config__")) == 1
    assert accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for charts in CHARTS.values():
        for name, (_, patterns) in charts.items():
            assert all(any(re.search(p, tag) for tag in tags["scalars"]) for p in patterns), f"{name} draws nothing"
    attempts = 1 if runs == "by_two" else 3
    assert len(list((attack_folder(root) / "tensorboard").glob("events*"))) == attempts
