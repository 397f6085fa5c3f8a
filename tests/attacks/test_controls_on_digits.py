"""The controls as suspects of a victim that was trained on digits: what they keep and what DeepJudge sees of them."""

from __future__ import annotations

import pytest
import torch

from rnet.config.run import RunConfig
from rnet.data.loading import load_dataset
from rnet.models.classifier import Classifier
from rnet.stages import stages
from rnet.stages.store import Store
from tests.tiny_runs import tiny

DEEPJUDGE = [
    "defense=deepjudge", "defense.num_seeds=8", "defense.min_seeds=4", "defense.num_fuzz_seeds=3",
    "defense.max_steps=60", "defense.threshold_factor=1.05", "defense.layer=layer1",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def suspect(control: str) -> RunConfig:
    return tiny(f"attack={control}", "train.epochs=6", *DEEPJUDGE)


def scores(control: str, store: Store) -> dict[str, float]:
    found = (stages.verify(suspect(control), store).result() or {})["scores"]
    return {name.rpartition("/")[2]: score for name, score in found.items()}


def logits(control: str, store: Store) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the victim and of the suspect, on the images that measure."""
    config = suspect(control)
    x_BCHW = load_dataset(config.dataset).test.pixels()
    models = [stages.load_model(config, stage(config, store)) for stage in (stages.train, stages.attack)]
    assert all(isinstance(model, Classifier) for model in models)
    with torch.no_grad():
        return models[0](x_BCHW), models[1](x_BCHW)


@pytest.mark.parametrize("control", ["identity", "permute", "rescale_channels", "obfuscate"])
def test_controls_that_keep_the_function_move_no_logit_and_move_deepjudges_neurons(control: str, store: Store) -> None:
    victim_BK, suspect_BK = logits(control, store)
    assert (victim_BK - suspect_BK).abs().max() <= (0 if control == "identity" else 1e-4)
    found = scores(control, store)
    assert (found["lod"] > 0.01) == (found["lad"] > 0.01) == (control != "identity")
    assert found["robd"] == 0
    assert found["jsd"] == pytest.approx(0, abs=1e-6)


def test_rescaled_logits_move_the_answers_and_no_neuron(store: Store) -> None:
    victim_BK, suspect_BK = logits("rescale_logits", store)
    assert torch.equal(victim_BK.argmax(1), suspect_BK.argmax(1))
    assert (victim_BK - suspect_BK).abs().max() > 0.1
    found = scores("rescale_logits", store)
    assert found["lod"] == found["lad"] == found["robd"] == 0
    assert found["jsd"] > 1e-4
