"""Nodes of a Slurm cluster are lost with all that runs there, and come back: the sweep ends with the same bytes."""

from __future__ import annotations

import random
from pathlib import Path

from tests.faults.table import Outcome, outcome
from tests.faults.work import Bench
from tests.slurm.campaign import run_campaign
from tests.slurm.cluster import dev_cluster, installed

BASE_PORT = 21400
MOST = 2
"""Rounds: each starts a cluster and takes some minutes."""


def case(bench: Bench, number: int, draw: random.Random, desk: Path) -> Outcome | None:
    """Two lost nodes in a round of tests/slurm/campaign.py; None where there is no Slurm, or enough was seen."""
    if number >= MOST or not installed():
        return None
    problem = None
    try:
        with dev_cluster(BASE_PORT + 400 * number) as state:
            run_campaign(state, faults=2, seed=draw.randrange(1000), seeds=2, epochs=30, kinds=["node killed"])
    except AssertionError as error:
        problem = str(error)
    return outcome("a lost node", "a sweep on Slurm, two nodes lost", problem)
