"""The same command by torchrun, mpiexec or alone: one store id, one surrogate; and what happens when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rnet.config.run import load_config
from rnet.models.weights import load_weights
from rnet.stages.store import Store
from rnet.verdicts.examine import examine
from tests.parallel.multiprocess import LAUNCHERS, REPOSITORY, free_port, run_ranks
from tests.tiny_runs import TINY, TINY_FINETUNE, TINY_REMOVALNET
from tests.verdicts.test_examine import SMALL

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one process."""
    root = tmp_path_factory.mktemp("alone")
    examine([load_config([*TINY, *TINY_REMOVALNET, "defense=random", *SMALL["random"]])], Store(root))
    return root


def weights(root: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """The id and the exported weights of a store's only attack."""
    (folder,) = (root / "attack").iterdir()
    return folder.name, load_weights(folder / "model.safetensors")


@pytest.mark.parametrize("launcher", [name for name in LAUNCHERS if name != "plain"])
def test_every_launcher_gives_the_same_id_and_surrogate(launcher: str, alone: Path, tmp_path: Path) -> None:
    (end,) = run_ranks(
        launcher, "-m", "rnet", "attack", *TINY, *TINY_REMOVALNET, "--root", tmp_path, "--json", timeout=180
    )
    assert end.returncode == 0, end.stderr
    assert json.loads(end.stdout)["result"]["derived"], "one document, printed once, and nothing else"
    assert "ddp, 2 processes" in end.stderr
    (expected_id, expected), (found_id, found) = weights(alone), weights(tmp_path)
    assert found_id == expected_id
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = (found[name].double() - value.double()).norm() / value.double().norm().clamp_min(1e-6)
        assert difference < 1e-4, name


def test_defences_share_their_queries_and_find_the_same(alone: Path, tmp_path: Path) -> None:
    """Every defence by two processes, on models that one process has made."""
    lines = []
    for defense, settings in SMALL.items():
        lines.append([*TINY, *TINY_FINETUNE, "train.epochs=6", f"defense={defense}", *settings])
    expected = {row["defense"]: row for line in lines for row in examine([load_config(line)], Store(tmp_path / "one"))}
    for stage in ("train", "attack"):
        (tmp_path / "two").mkdir(exist_ok=True)
        os.symlink(tmp_path / "one" / stage, tmp_path / "two" / stage)
    (tmp_path / "lines.json").write_text(json.dumps(lines))
    ends = run_ranks("plain", "-m", "tests.engines.defend", tmp_path, timeout=240)
    assert all(end.returncode == 0 for end in ends), "\n".join(end.stderr[-3000:] for end in ends)
    found = json.loads((tmp_path / "rows.json").read_text())
    assert found.keys() == expected.keys() == SMALL.keys()
    for defense, row in expected.items():
        assert found[defense]["verify_id"] == row["verify_id"]
        for name, metric in row["metrics"].items():
            assert found[defense]["metrics"][name]["value"] == pytest.approx(metric["value"], rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_the_restart_resumes(tmp_path: Path) -> None:
    """SIGKILL of one of two processes while they train, then the same command by one process."""
    command = [
        sys.executable, "-m", "rnet", "attack", *TINY, *TINY_REMOVALNET, "attack.iterations=120",
        "engine.checkpoint_steps=10", "engine.eval_every=1000", "--root", str(tmp_path),
    ]  # fmt: skip
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            command, cwd=REPOSITORY, env={**os.environ, **told, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("attack/*/checkpoints/step-*.json")):
            assert time.monotonic() < deadline, "no checkpoint was written"
            assert all(process.poll() is None for process in ranks), "a process ended before it was killed"
            time.sleep(0.05)
        ranks[1].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        _, said = ranks[0].communicate(timeout=60)
        assert time.monotonic() - killed < 30
        assert ranks[0].returncode != 0
        assert "rank 1" in said, "the survivor says who failed"
    finally:
        for process in ranks:
            process.kill()
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=180, check=False)
    assert again.returncode == 0, again.stderr
    assert "goes on after step" in again.stderr
    assert len(list(tmp_path.glob("attack/*/result.json"))) == 1


def test_sigterm_saves_and_says_so(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "rnet", "attack", *TINY, *TINY_REMOVALNET, "attack.iterations=3000",
        "--root", str(tmp_path),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("attack/*/log.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        process.terminate()
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert "stopped by SIGTERM after step" in said
    (status,) = tmp_path.glob("attack/*/status.json")
    assert json.loads(status.read_text())["state"] == "preempted"
    assert list(tmp_path.glob("attack/*/checkpoints/step-*.json"))
