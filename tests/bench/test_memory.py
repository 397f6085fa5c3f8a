"""rnet bench memory: a plan beside what a stage takes in a process of its own."""

from __future__ import annotations

import pytest

from rnet.bench.planned import bench_memory
from rnet.errors import UserError

RUN = [
    "dataset=digits", "dataset.train_size=64", "dataset.test_size=64", "model=resnet8", "train.batch_size=32",
    "train.epochs=100000", "attack=removalnet", "attack.iterations=100000", "attack.batch_size=32",
    "attack.substitute_size=64", "attack.num_poison_steps=2",
]  # fmt: skip


def test_a_long_run_is_measured_in_its_first_steps() -> None:
    (row,) = bench_memory(["stage=attack", *RUN], config_dir=None, threads=1)
    assert row["ratio"] == pytest.approx(1, abs=0.15)
    assert row["resident"] > 0
    assert (row["stage"], row["run"]) == ("attack", "model=resnet8 attack=removalnet")


def test_a_stage_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match="stage='fit' does not exist"):
        bench_memory(["stage=fit", *RUN], config_dir=None, threads=1)
