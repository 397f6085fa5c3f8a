"""ZeRO-3 divides what it says: all bytes of parameters that a process holds while an attack runs and is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engines.parameter_bytes import LAYER_BYTES, MODEL_BYTES
from tests.parallel.multiprocess import run_ranks

pytestmark = [pytest.mark.deepspeed, pytest.mark.slow]

SETTINGS = [
    "dataset=digits", "dataset.image_size=8", "dataset.train_size=64", "dataset.test_size=60",
    "dataset.substitute_pool=64", "model=tests.engines.parameter_bytes:deep", "train.epochs=1",
    "train.batch_size=32", "attack=removalnet", "attack.layer=13", "attack.substitute_size=48", "attack.iterations=3",
    "attack.batch_size=16", "attack.num_poison_steps=2", "engine.device=cpu", "engine.eval_every=1",
    "engine.eval_samples=16", "engine.log_every=1",
]  # fmt: skip
DIVIDED = ["engine=zero3", "engine.victim=zero3"]
IN_A_STEP = {"before the upper level", "forward", "backward", "between steps"}
Peaks = dict[str, int]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Peaks:
    """Of one process that holds everything: weights of victim and surrogate, gradients and momentum."""
    folder = tmp_path_factory.mktemp("plain")
    (peaks,) = run(folder, "rank{}.json", *SETTINGS, "engine=plain", ranks=1)
    assert 3.9 < peaks["backward"] / MODEL_BYTES < 4.2, "the program misses something"
    return peaks


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Peaks]]:
    """Of two processes that share it, up to a signal after two steps."""
    folder = tmp_path_factory.mktemp("divided")
    return folder, run(folder, "rank{}-stopped.json", *SETTINGS, *DIVIDED, "stop")


@pytest.fixture(scope="module")
def resumed(stopped: tuple[Path, list[Peaks]]) -> list[Peaks]:
    """Of two processes that go on from there."""
    return run(stopped[0], "rank{}.json", *SETTINGS, *DIVIDED)


def run(folder: Path, name: str, *overrides: str, ranks: int = 2) -> list[Peaks]:
    ends = run_ranks("plain", "-m", "tests.engines.parameter_bytes", folder, *overrides, ranks=ranks, timeout=600)
    assert all(end.returncode == 0 for end in ends), "\n".join(end.stderr[-3000:] for end in ends)
    found = [json.loads((folder / name.format(rank)).read_text()) for rank in range(ranks)]
    for rank, peaks in enumerate(found):
        models = {moment: round(size / MODEL_BYTES, 2) for moment, size in peaks.items()}
        print(f"rank {rank} of {ranks}, in models: {models}")  # noqa: T201 - the figures of docs/engines.md
    return found


def test_a_step_takes_less_than_two_thirds_of_what_one_process_holds(
    plain: Peaks, stopped: tuple[Path, list[Peaks]], resumed: list[Peaks]
) -> None:
    whole = max(plain[moment] for moment in IN_A_STEP)
    for peaks in [*stopped[1], *resumed]:
        assert peaks.keys() >= IN_A_STEP | {"measure"}
        assert max(peaks[moment] for moment in IN_A_STEP | {"measure"}) < 0.65 * whole


def test_saving_gathers_less_than_a_layer_on_the_device(
    stopped: tuple[Path, list[Peaks]], resumed: list[Peaks]
) -> None:
    for first, other in (stopped[1], resumed):
        assert first["saved"] > 2 * MODEL_BYTES, "rank 0 has the weights and the momentum"
        assert other["saved"] == 0
        assert max(first["saving adds"], other["saving adds"]) < LAYER_BYTES


def test_resuming_and_finishing_hold_no_more_than_a_step_of_one_process(plain: Peaks, resumed: list[Peaks]) -> None:
    whole = max(plain[moment] for moment in IN_A_STEP)
    for peaks in resumed:
        assert peaks["load"] < 0.65 * whole
        assert peaks["finish"] < 0.8 * whole
