"""A Slurm site as its own commands describe it; they are only asked."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable
from dataclasses import dataclass

from launch.sweep.clusters.offers import Offers, read_offers
from launch.sweep.clusters.slurm_commands import NO_ACCOUNTING, ask
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
    def version_text(self) -> str:
        """22.05.8, or ?."""
        return self.settings.get("SLURM_VERSION", "?")

    @property
    def version(self) -> tuple[int, ...]:
        """(22, 5) for 22.05.8; () if it is not told."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version_text)[:2])

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
    offers = read_offers(ask=lambda command: _try(ask, *command))
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
