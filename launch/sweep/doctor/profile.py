"""A profile of a site, from what rnet sweep doctor found: it works as it is, and says what else could be set."""

from __future__ import annotations

import json
from pathlib import Path

from launch.sweep.clusters.offers import Partition
from launch.sweep.clusters.site import Site
from launch.sweep.doctor.site import gpu_names
from rnet.errors import UserError
from rnet.storage.files import unwritable


def check_place(path: Path) -> None:
    """Raises UserError unless a profile can be written there and found again."""
    if path.suffix != ".yaml" or path.absolute().parent.name != "cluster" or not path.stem:
        raise UserError(
            f"--write {path} must be DIR/cluster/NAME.yaml; rnet finds it with --config-dir DIR cluster=NAME"
        )
    if not str(path.absolute()).isprintable():
        raise UserError(f"--write {str(path)!r} has control characters; choose another name")
    if path.exists():
        raise UserError(f"--write {path} is there already; it is not overwritten, choose another name")


def write_profile(site: Site, path: Path) -> None:
    """Writes the profile; a file that is there stays as it is. Raises UserError."""
    check_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(profile_text(site, path))
    except OSError as error:
        raise unwritable(path, error) from None


def profile_text(site: Site, path: Path) -> str:
    """The profile. It holds what has to be set at this site; the rest stands in comments."""
    own, folder = site.settings, path.absolute().parent.parent
    lines = [
        f"# {own.get('ClusterName', '?')}, Slurm {site.version_text}, as rnet sweep doctor found it.",
        f"#   rnet sweep submit SWEEP.yaml --config-dir {folder} cluster={path.stem} --root DIR",
        "# Every node sees the folder DIR. A sweep file says what a stage needs: gpus, cpus, memory_gb, minutes.",
        "kind: slurm",
    ]  # fmt: skip
    chosen = _choose(site)
    usable = [partition.name for partition in site.offers.partitions if partition.state == "UP"]
    if chosen is not None:
        lines += ["", f"# One of {', '.join(usable)}." if len(usable) > 1 else "# The only one.",
                  f"partition: {_text(chosen.name)}"]  # fmt: skip
        if chosen.max_minutes:
            lines.append(f"# It allows {chosen.max_minutes} minutes; a stage that needs longer goes on by itself.")
    accounts = [name for name in site.accounts if chosen is None or not chosen.accounts or name in chosen.accounts]
    if len(site.accounts) > 1 or (chosen is not None and chosen.accounts):
        lines += ["", f"# One of {', '.join(accounts or (chosen.accounts if chosen else ()))}."]
        lines += [f"account: {_text(accounts[0])}" if accounts else "# account: NAME"]
    if chosen is not None and chosen.qos:
        lines += ["", f"# The partition takes {' and '.join(chosen.qos)} only.", f"qos: {_text(chosen.qos[0])}"]
    nodes = site.offers.nodes_of(chosen.name) if chosen else list(site.offers.nodes)
    gpus = gpu_names(nodes)
    if gpus:
        named = [name for name in gpus if name]
        lines += ["", "# How GPUs are asked for, and which: for stages with gpus: 1."]
        lines += [f"{'' if site.gpus_by_gres else '# '}gpu_option: gres"]
        lines += [f"# gpu_type: {_text(name)}" for name in named]
    lines += ["", "# How memory is asked for: mem, mem-per-cpu, mem-per-gpu, none. sbatch says so if the site insists."]
    lines += [
        "memory_option: none  # the nodes do not say how much they have"
        if nodes and not site.counts_memory
        else "# memory_option: mem-per-cpu"
    ]
    lines += [
        "", "# Lines of a shell before each task, and the command that stands for python, e.g. in a container.",
        "# setup: [module load cuda, source ~/envs/rnet/bin/activate]",
        "# python: apptainer exec --nv rnet.sif python",
        "", "# Tasks of an array at once, sbatch calls for a sweep, any option of sbatch; null takes one out.",
        "# max_parallel: 64", "# max_submissions: 20", "# sbatch: {mail-type: FAIL, exclude: null}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _choose(site: Site) -> Partition | None:
    """The default partition, else the first one that is up and open to this user."""
    up = [partition for partition in site.offers.partitions if partition.state == "UP"]
    for open_ones in ([p for p in up if not p.accounts or set(p.accounts) & set(site.accounts)], up):
        for partition in sorted(open_ones, key=lambda p: not p.default):
            return partition
    return None


def _text(value: str) -> str:
    """A name as YAML takes it for text."""
    return (
        value
        if value.replace("_", "a").replace("-", "a").isalpha() and value.lower() not in _WORDS
        else json.dumps(value)
    )


_WORDS = ("yes", "no", "on", "off", "true", "false", "null", "y", "n")
