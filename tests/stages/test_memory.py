"""What status.json says of memory: the peak since the stage began, not what was held before."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rnet.stages.memory import peak_memory, start_peak
from rnet.stages.store import Store

MB = 2**20


def test_the_peak_is_seen_after_it_is_over_and_forgotten_by_the_next_stage() -> None:
    start_peak()
    before = peak_memory()["host"]
    assert np.ones(200 * MB, dtype=np.uint8).sum() == 200 * MB
    high = peak_memory()["host"]
    assert 150 * MB < high - before < 400 * MB
    start_peak()
    assert high - peak_memory()["host"] > 150 * MB


def test_a_stages_status_tells_its_own_peak(tmp_path: Path) -> None:
    def work(size: int) -> dict[str, int]:
        return {"held": int(np.ones(size * MB, dtype=np.uint8).sum())}

    peaks = []
    for stage, size in (("train", 300), ("attack", 1)):
        folder = Store(tmp_path).folder({"stage": stage})
        folder.complete(lambda folder, size=size: work(size))
        assert "peak_memory" not in (folder.result() or {})
        peaks.append(folder.status()["peak_memory"]["host"])
    assert peaks[0] - peaks[1] > 200 * MB
