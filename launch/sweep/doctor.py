"""`rnet sweep doctor`: what a site offers, and what each of it means for sweeps. It asks; it starts no job.

doctor_here.py looks at this machine and the store, doctor_profile.py writes a profile.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from launch.sweep.clusters.offers import Node, Offers, Partition, parse_nodes, parse_partitions
from launch.sweep.clusters.slurm_commands import NO_ACCOUNTING, ask
from launch.sweep.doctor_here import Finding
from rnet.errors import UserError, first_line

Ask = Callable[[list[str]], str]
"""Calls a command and returns what it prints; raises UserError."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What Slurm says of itself. accounting: why sacct is no help, or empty. settings: of `scontrol show config`."""

    settings: dict[str, str]
    offers: Offers
    accounting: str
    accounts: tuple[str, ...]
    mpi: tuple[str, ...]

    @property
    def version(self) -> tuple[int, ...]:
        """(22, 5) for 22.05.8; () if it is not told."""
        return tuple(int(part) for part in re.findall(r"\d+", self.settings.get("SLURM_VERSION", ""))[:2])

    @property
    def gpus_by_gres(self) -> bool:
        """Whether this Slurm takes no --gpus-per-task: select/linear and cons_res do not, nor what is before 19.05."""
        old = bool(self.version) and self.version < (19, 5)
        return old or self.settings.get("SelectType", "").lower() in ("select/linear", "select/cons_res")

    @property
    def counts_memory(self) -> bool:
        """Whether nodes say how much memory they have; Slurm takes 1 MiB where a site does not."""
        return any(node.memory_mb > 1 for node in self.offers.nodes)


def read_site(ask: Ask = ask) -> Site:
    """Asks Slurm's commands. Raises UserError where there are none, or the controller does not answer."""
    config = ask(["scontrol", "show", "config"])
    settings = dict(re.findall(r"^(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$", config, re.MULTILINE))
    offers = Offers(
        nodes=parse_nodes(_try(ask, "scontrol", "-o", "show", "nodes")),
        partitions=parse_partitions(_try(ask, "scontrol", "-o", "show", "partitions")),
    )
    accounting = ""
    try:
        ask(["sacct", "-n", "-P", "-X", "-o", "JobID", "-S", "now"])
    except UserError as error:
        accounting = "none is kept" if NO_ACCOUNTING in str(error) else first_line(error)
    accounts = _try(ask, "sacctmgr", "-n", "-P", "show", "assoc", f"user={getpass.getuser()}", "format=Account")
    mpi = _try(ask, "srun", "--mpi=list")
    return Site(
        settings=settings, offers=offers, accounting=accounting,
        accounts=tuple(sorted({line.strip() for line in accounts.splitlines() if line.strip()})),
        mpi=tuple(re.findall(r"^\s*([a-z][a-z0-9_]*)\s*$", mpi, re.MULTILINE)),
    )  # fmt: skip


def _try(ask: Ask, *command: str) -> str:
    try:
        return ask(list(command))
    except UserError:
        return ""


def findings_of(site: Site) -> list[Finding]:
    """What Slurm offers, a line each."""
    own = site.settings
    name, version = own.get("ClusterName", "?"), own.get("SLURM_VERSION", "?")
    found = [Finding(about="Slurm", found=f"{version}, cluster {name}")]
    if not site.offers.partitions:
        found.append(Finding(about="partitions", found="not told", means="requests are not checked before sbatch"))
    for partition in site.offers.partitions:
        found.append(_finding_of(partition, site.offers.nodes_of(partition.name)))
    found.append(_memory(site))
    found.append(_gpus(site))
    if site.accounting:
        age = own.get("MinJobAge", "some minutes")
        means = f"rnet goes on with squeue and its own files; how a killed task ended is known for {age}"
        found.append(Finding(about="accounting", found=site.accounting, means=means))
    else:
        found.append(Finding(about="accounting", found="sacct answers"))
    enforced = own.get("AccountingStorageEnforce", "none").lower()
    if site.accounts or enforced not in ("none", "", "0"):
        several = "set account in the profile" if len(site.accounts) > 1 else ""
        found.append(Finding(about="accounts", found=", ".join(site.accounts) or "none told", means=several))
    size, jobs = own.get("MaxArraySize", "?"), own.get("MaxJobCount", "?")
    arrays = Finding(about="arrays", found=f"MaxArraySize {size}, MaxJobCount {jobs}", means="larger arrays are split")
    if size in ("0", "1"):
        arrays = Finding(about="arrays", found=f"MaxArraySize {size}", means="rnet needs arrays", bad=True)
    found.append(arrays)
    found.append(_preemption(own))
    means = "rnet needs none; with cluster=mpi under srun one that mpi4py was built for"
    found.append(Finding(about="MPI types of srun", found=", ".join(site.mpi) or "not told", means=means))
    return found


def _finding_of(partition: Partition, nodes: list[Node]) -> Finding:
    limit = f"up to {partition.max_minutes} min" if partition.max_minutes else "no time limit"
    parts = [f"{len(nodes)} nodes", limit]
    if nodes:
        parts.append(f"nodes of {_span(node.cpus for node in nodes)} CPUs, {_span(n.memory_mb for n in nodes)} MiB")
    gpus = gpu_names(nodes)
    if gpus:
        parts.append("GPUs: " + ", ".join(f"{name or 'no type'} ({count} on a node)" for name, count in gpus.items()))
    if partition.max_mem_per_cpu:
        parts.append(f"at most {partition.max_mem_per_cpu} MiB a CPU")
    notes = []
    if partition.accounts:
        notes.append(f"for accounts {', '.join(partition.accounts)} only")
    if partition.qos:
        notes.append(f"needs qos: {' or '.join(partition.qos)}")
    if partition.state != "UP":
        notes.append(f"is {partition.state}: nothing starts there")
    title = f"partition {partition.name}" + (" (default)" if partition.default else "")
    return Finding(about=title, found="; ".join(parts), means="; ".join(notes))


def gpu_names(nodes: list[Node]) -> dict[str, int]:
    """The most GPUs of each type that one node has."""
    found: dict[str, int] = {}
    for node in nodes:
        for name, count in node.gpus.items():
            found[name] = max(found.get(name, 0), count)
    return dict(sorted(found.items()))


def _span(numbers: Iterable[int]) -> str:
    values = sorted(set(numbers))
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _memory(site: Site) -> Finding:
    kind = site.settings.get("SelectTypeParameters", "?")
    if site.offers.nodes and not site.counts_memory:
        return Finding(about="memory", found="nodes do not say how much they have", means="write memory_option: none")
    limits = sorted({p.max_mem_per_cpu for p in site.offers.partitions if p.max_mem_per_cpu})
    limit = site.settings.get("MaxMemPerCPU", "")
    if limit.isdecimal():
        limits.append(int(limit))
    means = "memory_option says how memory_gb of resources is asked for"
    if limits:
        means = f"a task with more than {limits[0]} MiB for each of its CPUs is given more CPUs; or ask for more cpus"
    return Finding(about="memory", found=kind, means=means)


def _gpus(site: Site) -> Finding:
    names = gpu_names(list(site.offers.nodes))
    if not names:
        return Finding(about="GPUs", found="none told", means="resources: gpus: 1 cannot be satisfied")
    means = ["write gpu_option: gres; this Slurm has no --gpus-per-task"] if site.gpus_by_gres else []
    if len(names) > 1:
        means.append("gpu_type in the profile chooses one")
    return Finding(about="GPUs", found=", ".join(name or "no type" for name in names), means="; ".join(means))


def _preemption(own: dict[str, str]) -> Finding:
    kind, mode = own.get("PreemptType", "?"), own.get("PreemptMode", "?")
    found = f"{kind}, {mode}; JobRequeue {own.get('JobRequeue', '?')}"
    means = ""
    if "CANCEL" in mode and "none" not in kind:
        means = "a preempted task saves and ends; rnet sweep retry starts it again"
    elif "REQUEUE" in mode:
        means = "a preempted task saves and is started again"
    return Finding(about="preemption", found=found, means=means)
