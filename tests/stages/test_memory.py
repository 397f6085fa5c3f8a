"""What status.json says of memory: the peak since the stage began, not what was held before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MB = 2**20


ALONE = """
import numpy as np
from rnet.stages.memory import peak_memory, start_peak
start_peak()
before = peak_memory()["host"]
np.ones(200 * 2**20, dtype=np.uint8).sum()
high = peak_memory()["host"]
start_peak()
print(high - before, high - peak_memory()["host"])
"""


def test_the_peak_is_seen_after_it_is_over_and_forgotten_by_the_next_stage() -> None:
    """In a process of its own: what other tests have freed would be taken again, and no new peak."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    grown, forgotten = map(int, done.stdout.split())
    assert 150 * MB < grown < 400 * MB
    assert forgotten > 150 * MB


STAGES = """
import sys
from pathlib import Path
import numpy as np
from rnet.stages.store import Store
for stage, size in (("train", 300), ("attack", 1)):
    folder = Store(Path(sys.argv[1])).folder({"stage": stage})
    folder.complete(lambda folder: {"held": int(np.ones(size * 2**20, dtype=np.uint8).sum())})
    assert "peak_memory" not in (folder.result() or {})
    print(folder.status()["peak_memory"]["host"])
"""


def test_a_stages_status_tells_its_own_peak(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STAGES, str(tmp_path)], capture_output=True, text=True, check=True)
    large, small = map(int, done.stdout.split())
    assert large - small > 200 * MB
