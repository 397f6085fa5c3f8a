"""A sweep on a real cluster, disturbed in every way known, must end with the table and the bytes of an undisturbed one.

    python -m tests.slurm.campaign --faults 40 --seed 0        (starts a cluster of its own; about a minute a fault)
    python -m tests.slurm.campaign --no-accounting-after 20    (accounting is switched off after so many)

Faults: SIGKILL of a task, scontrol requeue, SIGUSR2, preemption by the urgent partition, a node that dies and comes
back, a controller that is restarted, a sweep cancelled and handed out again by a submitter that dies after sbatch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.sweep.plan.expand import make_plan
from launch.sweep.plan.plan import Plan
from launch.sweep.records.attempts import read_attempt
from launch.sweep.show.report import complete, report
from launch.sweep.states import StoreState
from launch.sweep.submit import cancel, submit
from rnet.errors import UserError
from rnet.stages.graph import STAGE_NAMES
from rnet.storage.json_files import names_in
from tests.launch.sweep.sweeps import write_sweep
from tests.slurm.cluster import dev_cluster, switch_off_accounting

ROUND_SECONDS = 1800.0
CUT_SUBMITTER = """
import os, signal, sys
from pathlib import Path
from launch.sweep import submit
from launch.sweep.records import submissions
from launch.sweep.plan.plan import read_plan
save = submissions.save
def cut(root, record):
    os.kill(os.getpid(), signal.SIGKILL) if record.state == "submitted" else save(root, record)
submissions.save = cut
submit.submit(read_plan(Path(sys.argv[1])), Path(sys.argv[2]), retry=len(sys.argv) > 3)
"""


class Campaign:
    """One cluster, one sweep, a store for each round of it. state: the folder of the cluster."""

    def __init__(
        self, state: Path, folder: Path, seeds: list[int], epochs: int, chance: random.Random,
        kinds: Sequence[str] = (), no_accounting_after: int | None = None,
    ) -> None:  # fmt: skip
        lines = ["dataset.image_size=8", "dataset.train_size=400", "dataset.test_size=120", "model.width=4",
                 "dataset.substitute_pool=64", f"train.epochs={epochs}", "train.batch_size=50", "engine.device=cpu",
                 "engine.checkpoint_steps=20", "engine.eval_every=100", "negatives=1"]  # fmt: skip
        case = {"when": {"attack": "finetune"}, "set": ["attack.substitute_size=48", "attack.batch_size=16",
                                                        f"attack.iterations={10 * epochs}"]}  # fmt: skip
        axes = {"attack": ["finetune", "identity"], "defense": ["random"], "seed": seeds}
        path = write_sweep(folder, set=lines, axes=axes, cases=[case], cluster="dev",
                           resources={"default": {"memory_gb": 0.9}, "verify": {"pack": 4}})  # fmt: skip
        self.plan: Plan = make_plan(path)
        self.local: Plan = make_plan(path, ["cluster=local"])
        self.state, self.folder, self.chance = state, folder, chance
        self.root = folder / "undisturbed"
        self.faults: Counter[str] = Counter()
        self.kinds = list(kinds or FAULTS)
        self.bag: list[str] = []
        self.no_accounting_after = no_accounting_after

    def undisturbed(self) -> str:
        """The table of a run on this machine that nothing disturbs."""
        submit(self.local, self.root, wait=True)
        assert complete(self.plan, self.root), "the undisturbed run is incomplete"
        return report(self.plan, self.root, ["rows"], "csv", None, self.root)

    def round(self, number: int, faults: int) -> None:
        """Computes the sweep in a new store with so many faults at most, and compares what came out."""
        reference, self.root = self.folder / "undisturbed", self.folder / f"round-{number}"
        submit(self.plan, self.root)
        deadline = time.monotonic() + ROUND_SECONDS
        while not complete(self.plan, self.root):
            if self.no_accounting_after is not None and sum(self.faults.values()) >= self.no_accounting_after:
                switch_off_accounting(self.state)
                self.no_accounting_after = None
            assert time.monotonic() < deadline, f"not complete: {StoreState(self.plan, self.root, fresh=True).cells}"
            if sum(self.faults.values()) < faults and self.running():
                name = self.draw()
                if FAULTS[name](self):
                    self.bag.remove(name)
                    self.faults[name] += 1
                    print(f"{time.strftime('%H:%M:%S')} {sum(self.faults.values())} {name}", flush=True)  # noqa: T201
            time.sleep(self.chance.uniform(0.5, 4.0))
            self.keep_going()
        for cell in self.plan.cells:
            for name in ("result.json", "model.safetensors", "fingerprint.safetensors"):
                one, other = (root / cell.label / name for root in (self.root, reference))
                assert one.exists() == other.exists(), one
                assert not one.exists() or one.read_bytes() == other.read_bytes(), one
        ends = Counter(
            name.split(".")[0] for stage in STAGE_NAMES for name in names_in(self.root / "attempts" / stage)
            if json.loads((self.root / "attempts" / stage / name).read_text())["state"] == "done"
        )  # fmt: skip
        twice = [cell for cell, count in ends.items() if count > 1]
        assert not twice, f"computed twice to the end: {twice}"

    def draw(self) -> str:
        """One of the faults that have succeeded least often, so that each kind comes equally often."""
        self.bag = self.bag or list(self.kinds)
        return self.chance.choice(self.bag)

    def keep_going(self) -> None:
        """What a user does: submits and retries what needs it, again later if Slurm does not answer."""
        try:
            state = StoreState(self.plan, self.root)
            if any(not cell.alive and cell.state != "done" for cell in state.cells):
                submit(self.plan, self.root)
                submit(self.plan, self.root, retry=True)
        except UserError as error:
            print(f"later: {error}", flush=True)  # noqa: T201

    def running(self) -> list[dict[str, object]]:
        """The status of attempts that run, as far as their files say."""
        state = StoreState(self.plan, self.root, ask=False)
        return [
            status
            for cell, found in zip(self.plan.cells, state.cells, strict=True)
            if found.state == "running" and (status := read_attempt(self.root, cell.stage, cell.id, found.attempt))
        ]

    def one(self) -> dict[str, object]:
        return self.chance.choice(self.running() or [{}])

    def kill_task(self) -> bool:
        return _kill(int(str(self.one().get("pid", 0))))

    def requeue(self) -> bool:
        return _call("scontrol", "requeue", str(self.one().get("job")))

    def usr2(self) -> bool:
        return _call("scancel", "--signal=USR2", str(self.one().get("job")))

    def urgent(self) -> bool:
        return _call("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")

    def node(self) -> bool:
        """A node's daemon and all that ran there die; the node comes back after Slurm has noticed."""
        name = f"n{self.chance.randint(1, 4)}"
        pid = int((self.state / "run" / f"slurmd.{name}.pid").read_text())
        if not _kill(pid):
            return False
        conf = os.environ["SLURM_CONF"]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                own = (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"SLURMD_NODENAME={name}".encode() in own and f"SLURM_CONF={conf}".encode() in own:
                _kill(int(process.name))
        time.sleep(15)
        return _call("/usr/sbin/slurmd", "-N", name, "-f", conf)

    def controller(self) -> bool:
        """The controller is killed and started again under running jobs."""
        if not _kill(int((self.state / "run" / "slurmctld.pid").read_text())):
            return False
        time.sleep(self.chance.uniform(0, 5))
        return _call("/usr/sbin/slurmctld", "-f", os.environ["SLURM_CONF"])

    def submitter(self) -> bool:
        """What is left is cancelled, and handed out again by a submitter that dies right after sbatch."""
        try:
            cancel(self.plan, self.root)
        except UserError:  # the controller is not back yet
            return False
        saved = str(self.root / "sweeps" / f"{self.plan.name}.json")
        done = subprocess.run([sys.executable, "-c", CUT_SUBMITTER, saved, str(self.root)], stderr=subprocess.DEVNULL)
        return done.returncode == -signal.SIGKILL


FAULTS: dict[str, Callable[[Campaign], bool]] = {
    "SIGKILL of a task": Campaign.kill_task,
    "scontrol requeue": Campaign.requeue,
    "SIGUSR2": Campaign.usr2,
    "preemption": Campaign.urgent,
    "node killed": Campaign.node,
    "controller restarted": Campaign.controller,
    "submitter killed": Campaign.submitter,
}


def run_campaign(
    state: Path, *, faults: int, seed: int, seeds: int, epochs: int, kinds: Sequence[str] = (),
    no_accounting_after: int | None = None,
) -> Counter[str]:  # fmt: skip
    """Rounds of the sweep until there were so many faults. AssertionError for anything lost, repeated or changed.

    kinds: of the faults, names in FAULTS; all if none. no_accounting_after: so many faults accounting is switched off.
    """
    folder = Path(tempfile.mkdtemp(prefix="rnet-campaign-"))
    campaign = Campaign(state, folder, list(range(seeds)), epochs, random.Random(seed), kinds, no_accounting_after)
    table = campaign.undisturbed()
    number = 0
    while sum(campaign.faults.values()) < faults:
        number += 1
        campaign.round(number, faults)
        assert report(campaign.plan, campaign.root, ["rows"], "csv", None, campaign.root) == table, "the tables differ"
    shutil.rmtree(folder)
    return campaign.faults


def _kill(pid: int) -> bool:
    if pid <= 1:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _call(*command: str) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Disturbs a sweep on a cluster of its own and compares the tables.")
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the order and the times of the faults")
    parser.add_argument("--victims", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--no-accounting-after", type=int, help="faults, after which accounting is switched off")
    parser.add_argument("--base-port", type=int, default=19800)
    given = parser.parse_args()
    with dev_cluster(given.base_port) as state:
        found = run_campaign(
            state, faults=given.faults, seed=given.seed, seeds=given.victims, epochs=given.epochs,
            no_accounting_after=given.no_accounting_after,
        )  # fmt: skip
    print(f"{sum(found.values())} faults, nothing lost, repeated or changed: {dict(found)}")  # noqa: T201


if __name__ == "__main__":
    main()
