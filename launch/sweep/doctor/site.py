"""What a Slurm site offers, and what each of it means for sweeps. It asks; it starts no job."""

from __future__ import annotations

from collections.abc import Iterable

from launch.sweep.clusters.offers import Node, Partition
from launch.sweep.clusters.site import Site
from launch.sweep.doctor.here import Finding


def findings_of(site: Site) -> list[Finding]:
    """What Slurm offers, a line each."""
    own = site.settings
    name, version = own.get("ClusterName", "?"), site.version_text
    found = [Finding(about="Slurm", found=f"{version}, cluster {name}")]
    if not site.offers.partitions:
        found.append(Finding(about="partitions", found="not told", means="requests are not checked before sbatch"))
    for partition in site.offers.partitions:
        nodes, hidden = site.offers.nodes_of(partition.name), site.offers.hides_nodes_of(partition)
        found.append(_finding_of(partition, nodes, hidden))
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


def _finding_of(partition: Partition, nodes: list[Node], hidden: bool) -> Finding:
    limit = f"up to {partition.max_minutes} min" if partition.max_minutes else "no time limit"
    shown = f"of {partition.total_nodes} nodes {len(nodes)} shown" if hidden else f"{len(nodes)} nodes"
    parts = [shown, limit]
    if nodes:
        parts.append(f"nodes of {_span(node.cpus for node in nodes)} CPUs, {_span(n.memory_mb for n in nodes)} MiB")
    gpus = gpu_names(nodes)
    if gpus:
        parts.append("GPUs: " + ", ".join(f"{name or 'no type'} ({count} on a node)" for name, count in gpus.items()))
    if partition.max_cpus_per_node:
        parts.append(f"at most {partition.max_cpus_per_node} CPUs of a node")
    if partition.max_mem_per_cpu:
        parts.append(f"at most {partition.max_mem_per_cpu} MiB a CPU")
    notes = ["what its nodes have is not checked before sbatch"] if hidden else []
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
        hidden = any(map(site.offers.hides_nodes_of, site.offers.partitions))
        means = "nodes that are not shown may have some" if hidden else "resources: gpus: 1 cannot be satisfied"
        return Finding(about="GPUs", found="none told", means=means)
    ways = ["write gpu_option: gres; this Slurm has no --gpus-per-task"] if site.gpus_by_gres else []
    if len(names) > 1:
        ways.append("gpu_type in the profile chooses one")
    return Finding(about="GPUs", found=", ".join(name or "no type" for name in names), means="; ".join(ways))


def _preemption(own: dict[str, str]) -> Finding:
    kind, mode = own.get("PreemptType", "?"), own.get("PreemptMode", "?")
    found = f"{kind}, {mode}; JobRequeue {own.get('JobRequeue', '?')}"
    means = ""
    if "CANCEL" in mode and "none" not in kind:
        means = "a preempted task saves and ends; rnet sweep retry starts it again"
    elif "REQUEUE" in mode:
        means = "a preempted task saves and is started again"
    return Finding(about="preemption", found=found, means=means)
