"""Runs that diverge: noticed at the step where it happens, the last good checkpoint stays, and all is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rnet.errors import UserError
from rnet.stages import stages
from rnet.stages.models import load_model, save_model
from rnet.stages.store import Store
from rnet.training import victim
from rnet.training.finite import Diverged, first_not_finite, tensors_in
from tests.tiny_runs import tiny


def spoiled(at: int, value: float, monkeypatch: pytest.MonkeyPatch, *, what: str) -> None:
    """From that step on, the loss or the weights of a victim in training are spoiled."""
    prepare = victim.prepare_training

    def prepared(*args: object, **named: object) -> object:
        engine, step, num_steps, images = prepare(*args, **named)  # type: ignore[arg-type]

        def spoil(t: int) -> dict[str, Tensor]:
            found = step(t)
            if t >= at and what == "loss":
                found["loss/total"] = found["loss/total"] * value
            if t == at and what == "weights":
                with torch.no_grad():
                    engine.unwrapped.get_parameter("backbone.fc.weight")[0, 0] = value
            return found

        return engine, spoil, num_steps, images

    monkeypatch.setattr(victim, "prepare_training", prepared)


def kept_steps(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("*.pt"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("what", "at", "every", "kept"), [("loss", 5, 2, [2, 4]), ("weights", 5, 2, [2, 4]), ("loss", 10, 4, [4, 8])]
)
def test_the_last_good_checkpoint_stays_and_a_rerun_ends_with_the_undisturbed_bits(
    what: str, at: int, every: int, kept: list[int], value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["engine.log_every=100", "train.epochs=3", f"engine.checkpoint_steps={every}"]
    undisturbed = stages.train(tiny(*run), Store(tmp_path / "a"))
    with monkeypatch.context() as patch:
        spoiled(at, value, patch, what=what)
        with pytest.raises(Diverged, match=rf"checkpoint of step {kept[-1]} is kept.*goes on from it") as caught:
            stages.train(tiny(*run), Store(tmp_path / "b"))
    assert (f"at step {at} on images " in str(caught.value)) == (what == "loss")
    assert ("backbone.fc.weight" in str(caught.value)) == (what == "weights")
    folder = tmp_path / "b" / "train" / undisturbed.id
    assert kept_steps(folder) == [f"step-{step}.pt" for step in kept]
    for step in kept:
        state = torch.load(folder / "checkpoints" / f"step-{step}.pt", weights_only=True)
        assert first_not_finite(tensors_in(state)) is None
    assert (folder / "log.jsonl").exists()
    assert Store(tmp_path / "b").folder(undisturbed.document).status()["state"] == "failed"
    again = stages.train(tiny(*run), Store(tmp_path / "b"))
    for name in ("model.safetensors", "result.json"):
        assert (again.path / name).read_bytes() == (undisturbed.path / name).read_bytes()


def test_a_run_that_diverges_before_a_checkpoint_keeps_its_log_and_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(1, float("nan"), monkeypatch, what="loss")
    with pytest.raises(Diverged, match="the loss is not finite at step 1"):
        stages.train(tiny("train.epochs=2", "engine.log_every=1"), Store(tmp_path))
    (folder,) = (tmp_path / "train").iterdir()
    assert (folder / "log.jsonl").read_text().count("\n") >= 2
    assert '"failed"' in (folder / "status.json").read_text()


def test_before_the_first_update_the_learning_rate_is_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(0, float("inf"), monkeypatch, what="loss")
    with pytest.raises(Diverged) as caught:
        stages.train(tiny(), Store(tmp_path))
    assert "nothing was trained yet" in str(caught.value)
    assert "learning rate" not in str(caught.value)


def test_no_checkpoint_of_a_far_too_high_learning_rate_holds_what_is_not_finite(
    tmp_path: Path,
) -> None:
    with pytest.raises(Diverged, match="lower the learning rate"):
        stages.train(tiny("train.learning_rate=1e30", "train.epochs=5", "engine.checkpoint_steps=1"), Store(tmp_path))
    (folder,) = (tmp_path / "train").iterdir()
    for path in (folder / "checkpoints").glob("*.pt"):
        state = torch.load(path, weights_only=True)
        assert first_not_finite(tensors_in(state)) is None


def test_a_model_that_is_not_finite_is_neither_kept_nor_believed(tmp_path: Path) -> None:
    config = tiny()
    folder = stages.train(config, Store(tmp_path))
    model = load_model(config, folder)
    with torch.no_grad():
        model.get_parameter("backbone.fc.bias")[1] = float("nan")
    with pytest.raises(Diverged, match=r"fc\.bias is not finite"):
        save_model(folder, model)


def test_a_victim_whose_answers_overflow_is_said_to_be_the_cause(tmp_path: Path) -> None:
    config = tiny()
    store = Store(tmp_path)
    folder = stages.train(config, store)
    model = load_model(config, folder)
    with torch.no_grad():
        model.get_parameter("backbone.fc.weight").fill_(3e38)
    weights = tmp_path / "huge.pt"
    torch.save(model.export_state(), weights)
    with pytest.raises(UserError, match=r"huge\.pt answers \d+ of 60 test images"):
        stages.train(tiny(f"model.weights={weights}"), store)


def test_the_first_tensor_is_named_by_its_place() -> None:
    momentum = torch.tensor([1.0, float("inf")])
    state = {"model": {"a": torch.ones(2), "n": torch.ones(1, dtype=torch.int64)}, "optimizer": [{"m": momentum}]}
    assert first_not_finite(tensors_in(state)) == "optimizer.0.m"
