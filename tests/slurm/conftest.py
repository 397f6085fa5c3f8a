"""One cluster for all tests of this folder that need Slurm."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import dev_cluster, installed


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The folder with the state of a running cluster."""
    if not installed():
        pytest.skip("slurmctld is not installed: apt-get install slurm-wlm slurmdbd munge mariadb-server")
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    with dev_cluster(18800 + 400 * worker) as state:
        yield state
