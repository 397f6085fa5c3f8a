"""The campaigns of faults in short; `python -m tests.faults --minutes 45` runs the long ones."""

from __future__ import annotations

import subprocess
import sys

from tests.parallel.multiprocess import REPOSITORY

KINDS = "kills,damage,disks,together,clocks"


def test_a_few_faults_of_every_kind_end_with_the_same_bytes_or_one_clear_message() -> None:
    """In a process of its own: it forks, and nothing may have run there before."""
    command = [sys.executable, "-m", "tests.faults", "--minutes", "5", "--most", "5", "--quick", "--only", KINDS]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "| all |" in done.stdout
