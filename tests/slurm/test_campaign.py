"""The fault campaign in short; python -m tests.slurm.campaign runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.campaign import run_campaign


@pytest.mark.slurm
@pytest.mark.slow
def test_a_disturbed_sweep_ends_with_the_table_and_the_bytes_of_an_undisturbed_one(cluster: Path) -> None:
    faults = run_campaign(cluster, faults=4, seed=1, seeds=2, epochs=30)
    assert sum(faults.values()) >= 4
