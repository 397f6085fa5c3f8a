"""engine.pictures: TensorBoard gets pictures of a suspect, and the suspect is the same with and without them."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rnet.stages.stages import attack
from rnet.stages.store import Store
from tests.tiny_runs import TINY_FINETUNE, tiny


def test_pictures_change_no_bit_and_are_found_at_the_last_step(tmp_path: Path) -> None:
    plain = attack(tiny(*TINY_FINETUNE), Store(tmp_path / "plain"))
    shown = attack(tiny(*TINY_FINETUNE, "engine.pictures=true"), Store(tmp_path / "shown"))
    assert plain.id == shown.id
    for name in ("model.safetensors", "result.json"):
        assert (plain.path / name).read_bytes() == (shown.path / name).read_bytes()
    read = EventAccumulator(str(shown.path / "tensorboard"))
    read.Reload()
    for name in ("saliency", "planes", "embedding"):
        assert [event.step for event in read.Images(f"pictures/{name}")] == [4]
    assert read.Tags()["scalars"]
    assert not list((plain.path / "tensorboard").glob("*.pictures"))
