"""Bytes that each process of a stage will hold: what the steps of one process keep, as the engine divides it.

`simulate` finds what one process alone would hold; of several, each engine divides other things (Rajbhandari et al.,
SC 2020): data parallelism nothing, ZeRO-1 the optimizer's state, ZeRO-2 also gradients, ZeRO-3 also parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rnet.attacks.independent.config import IndependentConfig
from rnet.config.run import RunConfig
from rnet.data.images import Dataset, Part, TensorSource
from rnet.engines.config import EngineConfig
from rnet.planning.live import WORKING
from rnet.planning.planned_run import GRADIENTS, OPTIMIZER, Share
from rnet.planning.simulate import COPIES, PARAMETERS, VICTIM, Simulated, simulate
from rnet.training.loop import resolve_device

DATA, BUFFERS, POOL = "images in memory", "layers gathered and buffers of the engine", "CUDA graph's pool"
TRAINING = (
    "forward backward", "optimizer", "lower level", "data", "between phases", "measuring", "evasion probes"
)  # fmt: skip
"""The moments at which an engine is there."""
STEPPING = ("forward backward", "optimizer")
"""Of DeepSpeed's, which steps within the backward pass."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one of the processes of a stage holds. parts: bytes by owner, when most is alive; moment: when that is.

    batch: samples of a step on this process; 0 where nothing is trained. moments: the most alive in each kind of
    moment. Python, torch and their libraries are not in it.
    """

    stage: str
    engine: str
    processes: int
    batch: int
    parts: dict[str, int]
    moment: str
    moments: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())

    @property
    def images(self) -> int:
        """Bytes of the images that are kept in memory, which are there before the stage."""
        return self.parts.get(DATA, 0)


def plan_stage(stage: str, config: RunConfig, dataset: Dataset, processes: int = 1) -> Plan:
    """What each of so many processes will hold; nothing is allocated but the images, which are there already."""
    engine = as_run(config.engine, processes)
    trains = stage in ("train", "attack")
    divided = trains and engine.name == "deepspeed" and engine.zero_stage == 3
    found = simulate(stage, config, dataset, Share(processes=processes if trains else 1, divided=divided))
    on_cuda = resolve_device(engine.device).type == "cuda"
    recorded = on_cuda and engine.cuda_graph and processes == 1 and not divided
    return plan_of(
        stage, found, engine, processes, batch=batch_of(stage, config)[1] // processes,
        images=_images(stage, dataset, config), recorded=recorded,
    )  # fmt: skip


def plan_of(
    stage: str, found: Simulated, engine: EngineConfig, processes: int, *, batch: int = 0, images: int = 0,
    recorded: bool = False,
) -> Plan:  # fmt: skip
    """The same for what has been simulated. recorded: whether the lower level becomes a CUDA graph, which keeps its
    working space."""
    moments = {}
    for moment, held in found.moments.items():
        parts = dict(held)
        if moment in TRAINING:
            parts = divided_parts(parts, found, engine, processes, stepping=moment in STEPPING)
            if recorded and moment != "lower level":
                parts[POOL] = found.moments.get("lower level", {}).get(WORKING, 0)
        elif engine.victim == "zero3" and moment == "asking the victim" and stage == "attack":
            parts[VICTIM] = parts.get(VICTIM, 0) // processes
        moments[moment] = {**parts, DATA: images}
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    return Plan(
        stage=stage, engine=label(engine, processes), processes=processes, batch=batch, moment=moment,
        parts={owner: size for owner, size in moments[moment].items() if size},
        moments={name: sum(parts.values()) for name, parts in moments.items() if name},
    )  # fmt: skip


def divided_parts(
    parts: dict[str, int], found: Simulated, engine: EngineConfig, processes: int, *, stepping: bool = False
) -> dict[str, int]:
    """Parts of one process alone -> those of each of several. stepping: while the optimizer takes its step."""
    parts = dict(parts)
    trained, stage = found.trained, engine.zero_stage
    if engine.name == "ddp" and processes > 1:
        parts[GRADIENTS] = trained  # in buckets, which stay
    if engine.name != "deepspeed":
        return parts
    share = -(-trained // processes)
    parts[BUFFERS] = trained  # gradients on their way, flat
    if stage >= 1:
        parts[OPTIMIZER] = parts.get(OPTIMIZER, 0) // processes + share  # and float32 weights to update
    if stage >= 2:
        parts[GRADIENTS] = share
    if stage == 3:
        parts[PARAMETERS] = -(-parts.get(PARAMETERS, 0) // processes)
        parts[OPTIMIZER] -= share  # the shares that are sent around are updated themselves
        parts[BUFFERS] = 3 * found.largest  # a layer computing, the next, and gradients on their way
        parts[COPIES] = 0
    if stage >= 1 and stepping:
        parts[BUFFERS] += 2 * (found.largest if stage == 3 else share)  # copies, of all that is updated at once
    if engine.victim == "zero3":
        parts[VICTIM] = -(-parts.get(VICTIM, 0) // processes)
    if engine.offload:
        parts[OPTIMIZER] = 0
        if stage == 3:
            parts[PARAMETERS] = 0
    return parts


def as_run(engine: EngineConfig, processes: int) -> EngineConfig:
    """The engine by the name under which so many processes run it; auto before it has looked at the memory."""
    if engine.name in ("auto", "ddp"):
        return replace(engine, name="plain" if processes == 1 else "ddp")
    return engine


def label(engine: EngineConfig, processes: int) -> str:
    """The engine in a few words."""
    name = f"zero{engine.zero_stage}" if engine.name == "deepspeed" else engine.name
    more = [
        f"victim {engine.victim}" if engine.victim != "replica" else "", "offload" if engine.offload else "",
        f"{engine.accumulate} micro-batches" if engine.accumulate > 1 else "",
        "activation checkpointing" if engine.activation_checkpointing else "",
    ]  # fmt: skip
    return ", ".join([name, *filter(None, more)])


def batch_of(stage: str, config: RunConfig) -> tuple[str, int, int]:
    """(the setting, samples of a step of all processes, micro-batches of the recipe itself) of what a stage trains; of
    no samples where it trains nothing."""
    victim = stage == "train" and config.model.weights is None
    if victim or (stage == "attack" and isinstance(config.attack, IndependentConfig)):
        return "train.batch_size", int(config.train.batch_size), config.train.accumulate
    return "attack.batch_size", int(config.attack.batch_size or 0) if stage == "attack" else 0, 1


def loaded_images(dataset: Dataset) -> int:
    """Bytes of the host's memory that decoded images take."""
    sources = {id(part.source): part.source for part in (dataset.train, dataset.substitute, dataset.test)}
    return sum(s.images_NCHW.nbytes for s in sources.values() if isinstance(s, TensorSource))


def _images(stage: str, dataset: Dataset, config: RunConfig) -> int:
    """Bytes of decoded images; on a GPU those that the stage puts there."""
    if resolve_device(config.engine.device).type == "cpu":
        return loaded_images(dataset)
    parts = [dataset.train, dataset.substitute, dataset.test]
    there = {"train": parts[::2], "attack": parts[1:]}.get(stage, [])
    return sum(_bytes(part, dataset) for part in there)


def _bytes(part: Part, dataset: Dataset) -> int:
    return len(part) * dataset.channels * dataset.image_size**2 if part.source.fits(len(part)) else 0
