"""What is disturbed: commands of every stage and engine, each of which takes a moment; and how they end undisturbed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from rnet.stages.graph import STAGE_NAMES
from rnet.storage.manifest import MANIFEST, read_manifest
from tests.attacks.table import TABLE
from tests.faults.file_calls import Fault, FileCalls
from tests.faults.process import Ended, Process
from tests.parallel.multiprocess import free_port
from tests.tiny_runs import TINY, TINY_FINETUNE, TINY_IPGUARD, TINY_REMOVALNET
from tests.verdicts.test_examine import SMALL

RUN = (*TINY, "model=mine", "train.epochs=4", "engine.checkpoint_steps=2")
ENGINES: dict[str, tuple[str, ...]] = {
    "plain": ("engine=plain",),
    "ddp": ("engine=ddp",),
    **{f"ZeRO {stage}": ("engine=deepspeed", f"engine.zero_stage={stage}") for stage in range(4)},
}
ATTACKS = (
    "removalnet", "finetune", "knockoff", "prune", "retrain", "distill", "knockoff_adaptive", "adversarial_training",
    "feature_distill", "quantise", "independent", "identity",
)  # fmt: skip
FOLDER = ("dataset=image_folder", "dataset.folder=INPUTS/images", "dataset.substitute_pool=24", "dataset.test_size=18",
          "dataset.train_size=40", "train.batch_size=20")  # fmt: skip
QUICK = ("train (digits)", "train (import)", "attack (removalnet)", "fingerprint (random)", "verify (ipguard)")
COMPILE_SECONDS = 900.0
"""How long an undisturbed run may take: DeepSpeed compiles in its first one."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One command. name: what tells it from others of its stage. ranks: how many processes share it."""

    stage: str
    name: str
    lines: tuple[str, ...]
    engine: str = "plain"

    @property
    def ranks(self) -> int:
        """Two for every engine but plain."""
        return 1 if self.engine == "plain" else 2

    @property
    def where(self) -> str:
        """For the table."""
        return f"{self.stage}, {self.engine}"

    def __str__(self) -> str:
        return f"{self.stage} ({self.name}), {self.engine}"


def plain_works() -> list[Work]:
    """Every stage on one process: the victim, an imported one, one of image files, attacks, defences."""
    found = [
        Work(stage="train", name="digits", lines=RUN),
        Work(stage="train", name="image files", lines=(*RUN, *FOLDER)),
        Work(stage="train", name="import", lines=(*RUN, "model.weights=INPUTS/weights/weights.safetensors")),
    ]
    found += [Work(stage="attack", name=name, lines=(*RUN, *TABLE[name])) for name in ATTACKS]
    for stage in ("fingerprint", "verify"):
        suspect = ("negatives=1", *TINY_FINETUNE) if stage == "verify" else ()
        found += [
            Work(stage=stage, name=name, lines=(*RUN, *suspect, f"defense={name}", *settings))
            for name, settings in SMALL.items()
        ]
    return found


def shared_works(engines: Sequence[str] = tuple(ENGINES)[1:]) -> list[Work]:
    """Every stage on two processes."""
    stages = {
        "train": RUN,
        "attack": (*RUN, *TINY_REMOVALNET),
        "fingerprint": (*RUN, *TINY_IPGUARD),
        "verify": (*RUN, *TINY_FINETUNE, *TINY_IPGUARD),
    }
    return [
        Work(stage=stage, name="two processes", lines=lines, engine=engine)
        for engine in engines
        for stage, lines in stages.items()
    ]


class Undisturbed:
    """How a work ends undisturbed. parents: a store in which only its last stage is missing; store: a finished one."""

    def __init__(self, work: Work, bench: Bench) -> None:
        self.work, self._bench = work, bench
        folder = bench.folder / "undisturbed" / f"{work.stage}-{work.name}-{work.engine}".replace(" ", "_")
        self.store, self.parents = folder / "store", folder / "parents"
        if work.stage != "train":
            victim = next(w for w in (*plain_works(), *shared_works()) if (w.stage, w.engine) == ("train", work.engine))
            shutil.copytree(bench.undisturbed(victim).store, self.store)
        self.shown = bench.must(work, self.store, folder / "desk")
        shutil.copytree(self.store, self.parents)
        shutil.rmtree(self.parents / work.stage)
        again, log = folder / "again", folder / "calls"
        shutil.copytree(self.parents, again)
        processes = bench.start(work, again, folder / "desk", prepare=FileCalls(again, log=log).install)
        bench.wait(processes)
        self.seconds: float = max(process.seconds or 0.0 for process in processes)
        self.calls = log.read_text().split()
        problem = self.difference(again)
        assert problem is None, f"undisturbed, {work} does not end as before: {problem}"
        shutil.rmtree(again)

    def difference(self, store: Path) -> str | None:
        """Where the finished stages of a store differ from these; None if they do not."""
        return differing_files(self.store, store)

    def spoiled(self, store: Path) -> str | None:
        """What is no longer as it was of the stages that are finished in a store; None if all is."""
        for label, folder in _finished(store).items():
            for name in (*read_manifest(self.store / label), MANIFEST):
                if (
                    not (folder / name).is_file()
                    or (folder / name).read_bytes() != (self.store / label / name).read_bytes()
                ):
                    return f"{label}/{name} was overwritten"
        return None

    @cached_property
    def labels(self) -> list[str]:
        """Stage and id of all finished stages."""
        return sorted(_finished(self.store))


class Bench:
    """Where works are started. folder: of everything that is made. quick: a few works of one process only."""

    def __init__(self, folder: Path, *, quick: bool = False) -> None:
        self.plain = [work for work in plain_works() if not quick or f"{work.stage} ({work.name})" in QUICK]
        self.shared = [] if quick else shared_works()
        self.folder = folder
        self.inputs = folder / "inputs"
        self._undisturbed: dict[Work, Undisturbed] = {}
        self._started: list[Process] = []
        write_images(self.inputs / "images")
        write_options(self.inputs / "options")
        (self.inputs / "weights").mkdir()
        found = self.undisturbed(plain_works()[0])
        shutil.copy(
            found.store / found.labels[0] / "model.safetensors", self.inputs / "weights" / "weights.safetensors"
        )

    def undisturbed(self, work: Work) -> Undisturbed:
        """How it ends undisturbed, computed once."""
        if work not in self._undisturbed:
            self._undisturbed[work] = Undisturbed(work, self)
        return self._undisturbed[work]

    def arguments(self, work: Work, store: Path, inputs: Path | None = None) -> list[str]:
        """The command line."""
        lines = [line.replace("INPUTS", str(inputs or self.inputs)) for line in work.lines]
        options = ("--config-dir", str((inputs or self.inputs) / "options"), "--root", str(store), "--json")
        return [work.stage, *lines, *ENGINES[work.engine], *options]

    def start(
        self, work: Work, store: Path, desk: Path, *, prepare: Callable[[], object] | None = None,
        inputs: Path | None = None,
    ) -> list[Process]:  # fmt: skip
        """Its processes. prepare: called in the first one before the command."""
        arguments = self.arguments(work, store, inputs)
        if work.ranks == 1:
            return self.remember([Process(arguments, desk, prepare=prepare)])
        told = {"WORLD_SIZE": str(work.ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        return self.remember([
            Process(
                arguments, desk, prepare=prepare if rank == 0 else None,
                environment={**told, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(work.ranks)
        ])  # fmt: skip

    def remember(self, processes: list[Process]) -> list[Process]:
        """So that close() finds them."""
        self._started = [process for process in self._started if process.seconds is None] + processes
        return processes

    def close(self) -> None:
        """Kills what was started and is not waited for."""
        for process in self._started:
            if process.seconds is None:
                process.end()

    def wait(self, processes: Sequence[Process], seconds: float = 120.0) -> list[Ended]:
        """How they end."""
        return [process.wait(seconds) for process in processes]

    def cut_off(self, work: Work) -> Path:
        """A store in which its stage was killed late, and has checkpoints."""
        store = self.undisturbed(work).store.parent / "cut"
        if not store.exists():
            undisturbed = self.undisturbed(work)
            shutil.copytree(undisturbed.parents, store)
            renamed = [at for at, call in enumerate(undisturbed.calls, start=1) if call == "replace"]
            fault = Fault(at=renamed[-5], kill="after")  # then come the weights, the manifest, the result, the state
            self.wait(self.start(work, store, store.parent / "desk", prepare=FileCalls(store, fault).install))
            assert list(store.glob(f"{work.stage}/*/checkpoints/*.pt")), "no checkpoint was written before the kill"
        return store

    def must(self, work: Work, store: Path, desk: Path, inputs: Path | None = None) -> str:
        """Runs it undisturbed; what the first process shows. AssertionError if it fails."""
        ends = self.wait(self.start(work, store, desk, inputs=inputs), COMPILE_SECONDS)
        for end in ends:
            assert end.status == 0, f"{work}: {end.describe()}"
        return ends[0].shown

    def ends_the_same(self, work: Work, store: Path, desk: Path) -> str | None:
        """Runs the command again, now undisturbed; what is not as if nothing had happened, None if nothing."""
        for end in self.wait(self.start(work, store, desk)):
            if end.status != 0 or "Traceback" in end.said:
                return f"the same command again: {end.describe()}"
        return self.undisturbed(work).difference(store)


def differing_files(undisturbed: Path, store: Path) -> str | None:
    """Where the finished stages of one store differ from those of an undisturbed one; None if they do not."""
    ours, theirs = _finished(undisturbed), _finished(store)
    if ours.keys() != theirs.keys():
        return f"it has {sorted(theirs)} instead of {sorted(ours)}"
    for label, folder in ours.items():
        for name in (*read_manifest(folder), MANIFEST):
            other = theirs[label] / name
            if not other.is_file() or other.read_bytes() != (folder / name).read_bytes():
                return f"{label}/{name} is not that of the undisturbed run"
    return None


def write_images(folder: Path) -> None:
    """Three classes of 30 images of 8x8 pixels."""
    chance = np.random.default_rng(0)
    for label in range(3):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(30):
            pixels = chance.integers(0, 120, (8, 8, 3), dtype=np.uint8)
            pixels[:, :, label] += 120
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number}.png")


def write_options(folder: Path) -> None:
    """An option of the user's own, which says of the model what the runs of the tests say."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "mine.yaml").write_text("# a user's own model\nname: resnet8\nwidth: 4\n")


def _finished(store: Path) -> dict[str, Path]:
    return {
        f"{stage}/{path.parent.name}": path.parent
        for stage in STAGE_NAMES
        for path in (store / stage).glob("*/result.json")
    }
