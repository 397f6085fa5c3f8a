"""The one-machine Slurm cluster for tests: started, asked and stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from launch.sweep.plan.plan import Plan
from launch.sweep.states import StoreState

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120


def installed() -> bool:
    """Whether Slurm's daemons are on this machine."""
    return shutil.which("slurmctld", path=f"/usr/sbin:{os.environ.get('PATH', '')}") is not None


@contextmanager
def dev_cluster(base_port: int) -> Iterator[Path]:
    """A cluster of its own for the block, with Slurm's commands pointed at it; yields the folder of its state."""
    state = Path(tempfile.mkdtemp(prefix="rnet-slurm-", dir="/tmp"))  # a short path: sockets have at most 107 letters
    state.chmod(0o755)  # munge wants to be reachable
    environment = {**os.environ, "ST": str(state / "st"), "BASE": str(base_port)}
    script = [str(ROOT / "slurm" / "dev-cluster")]
    before = os.environ.get("SLURM_CONF")
    try:
        subprocess.run([*script, "up"], env=environment, check=True, timeout=START_SECONDS, stdout=subprocess.DEVNULL)
        os.environ["SLURM_CONF"] = str(state / "st" / "etc" / "slurm.conf")
        yield state / "st"
    finally:
        subprocess.run([*script, "down"], env=environment, timeout=START_SECONDS, stdout=subprocess.DEVNULL)
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(state, ignore_errors=True)


def stop_accounting(state: Path) -> None:
    """Stops the cluster's slurmdbd, and returns when sacct is refused."""
    os.kill(int((state / "run" / "slurmdbd.pid").read_text()), signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(["sacct", "-n"], capture_output=True).returncode == 0:
        assert time.monotonic() < deadline, "sacct still answers"
        time.sleep(0.1)


def switch_off_accounting(state: Path) -> None:
    """Ends the cluster's accounting for good: a controller of Slurm 22.05 that dies does not start without slurmdbd."""
    stop_accounting(state)
    conf, pid = state / "etc" / "slurm.conf", int((state / "run" / "slurmctld.pid").read_text())
    kept = [line for line in conf.read_text().splitlines() if not line.startswith("AccountingStorage")]
    conf.write_text("\n".join([*kept, "AccountingStorageType=accounting_storage/none", ""]))
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "the controller does not end"
        time.sleep(0.1)
    subprocess.run(["/usr/sbin/slurmctld", "-f", str(conf)], check=True, stdout=subprocess.DEVNULL)


def start_accounting() -> None:
    """Starts slurmdbd again, and returns when sacct answers."""
    conf = Path(os.environ["SLURM_CONF"])
    subprocess.run(["/usr/sbin/slurmdbd"], env={**os.environ, "SLURM_CONF": str(conf)}, check=True)
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(["sacct", "-n"], capture_output=True).returncode:
        assert time.monotonic() < deadline, "sacct does not answer"
        time.sleep(0.1)


def wait_until(plan: Plan, root: Path, reached: Callable[[StoreState], bool], seconds: float) -> StoreState:
    """The sweep's state once it is as asked; AssertionError with what it was after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        state = StoreState(plan, root, fresh=True)
        if reached(state):
            return state
        shown = [(cell.state, cell.error) for cell in state.cells if cell.state != "done"]
        assert time.monotonic() < deadline, f"after {seconds} s: {shown} {state.trouble}\n{logs(root)}"
        time.sleep(0.5)


def at_rest(state: StoreState) -> bool:
    """Whether nothing goes on by itself any more."""
    return not any(cell.alive for cell in state.cells)


def logs(root: Path) -> str:
    """The end of what every task wrote."""
    return "\n".join(f"{path}:\n{path.read_text()[-4000:]}" for path in sorted(root.glob("jobs/*/*log.out")))
