"""What a site offers, as scontrol says it: nodes and partitions; and whether a task could ever run there."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from launch.sweep.clusters.slurm_commands import ask
from launch.sweep.plan.resources import make_shape
from rnet.errors import UserError

_PAIR = re.compile(r"(?:^|\s)([A-Za-z]\w*)=(\S*)")
_UNLIMITED = ("UNLIMITED", "INFINITE", "NONE", "N/A", "(null)", "")


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node. memory_mb: MiB that jobs may have. gpus: how many of each type, "" where the site gives no types."""

    name: str
    cpus: int
    memory_mb: int
    gpus: dict[str, int] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    partitions: frozenset[str] = frozenset()
    state: str = ""

    def gpus_of(self, kind: str | None) -> int:
        """How many GPUs of a type; of any without one."""
        return sum(count for name, count in self.gpus.items() if not kind or name == kind)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition; None for a limit that it does not have. Times in minutes, memory in MiB."""

    name: str
    default: bool = False
    state: str = "UP"
    max_minutes: int | None = None
    max_nodes: int | None = None
    max_mem_per_cpu: int | None = None
    max_mem_per_node: int | None = None
    max_cpus_per_node: int | None = None
    total_nodes: int | None = None
    accounts: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Offers:
    """All that scontrol shows to this user."""

    nodes: Sequence[Node]
    partitions: Sequence[Partition]

    def partition(self, name: str | None) -> Partition | None:
        """The partition of that name, or the default one."""
        return next((p for p in self.partitions if (p.name == name if name else p.default)), None)

    def hides_nodes_of(self, partition: Partition) -> bool:
        """Whether it has nodes that are not shown: of a cloud, switched off, or what a site keeps private."""
        return len(self.nodes_of(partition.name)) < (partition.total_nodes or 0)

    def nodes_of(self, partition: str) -> list[Node]:
        """The nodes of a partition."""
        return [node for node in self.nodes if partition in node.partitions]


def read_offers(clusters: str | None = None, ask: Callable[[list[str]], str] = ask) -> Offers:
    """Asks scontrol, twice. Raises UserError where it does not answer."""
    at = [f"--clusters={clusters}"] if clusters else []
    nodes, partitions = (ask(["scontrol", *at, "-o", "show", what]) for what in ("nodes", "partitions"))
    return Offers(nodes=parse_nodes(nodes), partitions=parse_partitions(partitions))


def parse_nodes(text: str) -> list[Node]:
    """The nodes that `scontrol -o show nodes` lists, a line each; lines that are none are passed over."""
    found = []
    for line in text.splitlines():
        pairs = dict(_PAIR.findall(line))
        if "NodeName" not in pairs:
            continue
        cpus = _number(pairs.get("CPUEfctv")) or _number(pairs.get("CPUTot")) or 0
        memory = (_number(pairs.get("RealMemory")) or 0) - (_number(pairs.get("MemSpecLimit")) or 0)
        found.append(
            Node(
                name=pairs["NodeName"], cpus=cpus, memory_mb=memory, gpus=parse_gpus(pairs.get("Gres", "")),
                features=_names(pairs.get("AvailableFeatures", "")), state=pairs.get("State", ""),
                partitions=_names(pairs.get("Partitions", "")),
            )
        )  # fmt: skip
    return found


def parse_partitions(text: str) -> list[Partition]:
    """The partitions that `scontrol -o show partitions` lists, a line each."""
    found = []
    for line in text.splitlines():
        pairs = dict(_PAIR.findall(line))
        if "PartitionName" in pairs:
            found.append(
                Partition(
                    name=pairs["PartitionName"], default=pairs.get("Default") == "YES", state=pairs.get("State", "UP"),
                    max_minutes=parse_minutes(pairs.get("MaxTime", "")), max_nodes=_number(pairs.get("MaxNodes")),
                    max_mem_per_cpu=_number(pairs.get("MaxMemPerCPU")),
                    max_mem_per_node=_number(pairs.get("MaxMemPerNode")),
                    max_cpus_per_node=_number(pairs.get("MaxCPUsPerNode")),
                    total_nodes=_number(pairs.get("TotalNodes")),
                    accounts=_some(pairs.get("AllowAccounts", "")), qos=_some(pairs.get("AllowQos", "")),
                )
            )  # fmt: skip
    return found


def parse_gpus(gres: str) -> dict[str, int]:
    """GPUs by type of a node's Gres: gpu:a100:4(S:0-1),gpu:1g.10gb:7,shard:8 -> {"a100": 4, "1g.10gb": 7}."""
    found: dict[str, int] = {}
    for part in re.sub(r"\([^()]*\)", "", gres).split(","):
        name, *rest = part.split(":")
        if name == "gpu":
            count = _number(rest.pop()) if rest and _number(rest[-1]) is not None else 1
            kind = ":".join(rest)
            found[kind] = found.get(kind, 0) + (count or 0)
    return found


def parse_minutes(text: str) -> int | None:
    """Minutes of a time as Slurm writes it, rounded up; None for no limit and for what is no time."""
    try:
        return None if text.upper() in _UNLIMITED else make_shape({"minutes": text}).minutes
    except UserError:
        return None


def parse_memory(text: str) -> int | None:
    """MiB of sbatch's sizes (4000, 4G, 500M); None for anything else, and for 0, which is all of a node."""
    match = re.fullmatch(r"([0-9]{1,12})([KMGT]?)B?", text.strip().upper())
    if match is None:
        return None
    return int(int(match[1]) * {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[match[2]]) or None


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a task asks of each of its nodes. texts: how the user wrote it, by field; a field at its default was not
    asked for."""

    stage: str
    cpus: int = 0
    memory_mb: int = 0
    gpus: int = 0
    gpu_type: str | None = None
    minutes: int = 0
    nodes: int = 1
    texts: dict[str, str] = field(default_factory=dict)


def check_need(need: Need, offers: Offers, partitions: str | None, constraint: str | None) -> None:
    """Raises UserError, with stage, key and value, if no partition of those named could ever run the task.

    partitions: names with commas between them, or None for the default. What the site does not tell is not checked.
    """
    wanted = [offers.partition(name) for name in (partitions or "").split(",")]
    known = [found for found in wanted if found is not None and offers.nodes_of(found.name)]
    if not known or len(known) < len(wanted):
        return
    refusals = [_refusal(need, offers, partition, constraint) for partition in known]
    if all(refusals):
        raise UserError(f"{need.stage}: {refusals[0]}")


def _refusal(need: Need, offers: Offers, partition: Partition, constraint: str | None) -> str:
    """Why the partition cannot run it; empty if it can."""
    text, where = need.texts, f"partition={partition.name}"
    if partition.max_minutes is not None and need.minutes > partition.max_minutes:
        return f"{text['minutes']} is above the limit of {where}, {partition.max_minutes} minutes; ask for less time"
    if partition.max_mem_per_node and need.memory_mb > partition.max_mem_per_node:
        limit = f"{partition.max_mem_per_node} MiB of memory on a node"
        return f"{text['memory_mb']} is above the limit of {where}, {limit}; {_REMEDIES['memory_mb']}"
    if partition.max_cpus_per_node and need.cpus > partition.max_cpus_per_node:
        limit = f"{partition.max_cpus_per_node} CPUs of a node"
        return f"{text['cpus']} is above the limit of {where}, {limit}; {_REMEDIES['cpus']}"
    if offers.hides_nodes_of(partition):
        return ""
    nodes = offers.nodes_of(partition.name)
    if constraint and re.fullmatch(r"[\w.-]+", constraint):  # not one of Slurm's expressions
        nodes = [node for node in nodes if constraint in node.features]
        if not nodes:
            there = sorted({name for node in offers.nodes_of(partition.name) for name in node.features})
            return f"constraint={constraint} is a feature of no node of {where}; there are {', '.join(there) or 'none'}"
    cpus = need.cpus
    if partition.max_mem_per_cpu and need.memory_mb:
        cpus = max(cpus, -(-need.memory_mb // partition.max_mem_per_cpu))  # Slurm adds CPUs to the task
    kinds = ", ".join(sorted({kind or "without a type" for node in nodes for kind in node.gpus})) or "none"
    kind = f" of type {need.gpu_type} (there: {kinds})" if need.gpu_type else ""
    checks: list[tuple[str, Callable[[Node], int], int, str]] = [
        ("cpus", lambda node: node.cpus, need.cpus, "{} CPUs"),
        ("memory_mb", lambda node: node.memory_mb, need.memory_mb, "{} MiB of memory"),
        ("gpus", lambda node: node.gpus_of(need.gpu_type), need.gpus, "{} GPUs" + kind),
    ]
    for key, has, asked, words in checks:
        most = max(map(has, nodes))
        if asked > most:
            return f"{text[key]} is more than any node of {where} has, {words.format(most)}; {_REMEDIES[key]}"
    fitting = [node for node in nodes if node.cpus >= cpus and all(has(node) >= asked for _, has, asked, _ in checks)]
    if not fitting:
        together = ", ".join(text[key] for key, _, number, _ in checks if number)
        more = f" (its MaxMemPerCPU makes {cpus} CPUs of it)" if cpus > need.cpus else ""
        return f"no node of {where} has all of {together}{more}; ask for less, or for another partition"
    most = len(fitting) if partition.max_nodes is None else min(len(fitting), partition.max_nodes)
    if need.nodes > most:
        return f"{text['nodes']} is more than {where} has of such nodes, {most}; ask for fewer, or another partition"
    return ""


_REMEDIES = {
    "cpus": "ask for fewer, or for another partition",
    "memory_mb": "ask for less, for another partition, or write memory_option: none if the site counts no memory",
    "gpus": "ask for fewer, for another gpu_type or for another partition",
}


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch("[0-9]{1,15}", text) else None


def _names(text: str) -> frozenset[str]:
    return frozenset(() if text in _UNLIMITED else re.sub(r"\([^()]*\)", "", text).split(","))


def _some(text: str) -> tuple[str, ...]:
    return () if text in ("ALL", *_UNLIMITED) else tuple(text.split(","))
