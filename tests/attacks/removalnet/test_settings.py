"""RemovalNet's settings: levels that are left out, where the latent target starts, and what is said of the shuffle."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rnet.attacks.removalnet.attack import RemovalNet, shuffle_in_words, shuffled
from rnet.attacks.removalnet.config import RemovalNetConfig
from rnet.config.run import load_config
from rnet.cutting.split import SplitModel
from rnet.draws import BatchDraws
from rnet.engines.lower_level import Network
from rnet.errors import UserError
from rnet.models.resnet import SmallResNet

SMALL = RemovalNetConfig(layer="layer1", iterations=3, batch_size=8, num_poison_steps=2, rho=0.5)
DRAWS = BatchDraws(seed=0, step=0, sample_ids_B=torch.arange(6))


def victim(width: int = 4) -> SmallResNet:
    torch.manual_seed(0)
    model = SmallResNet(num_classes=5, width=width).train()
    with torch.no_grad():
        model(images(32))
    return model.eval()


def images(count: int = 16) -> Tensor:
    return torch.randn((count, 3, 8, 8), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("removalnet", "trains on latent level and logits level and cross-entropy"),
        (
            "removalnet_latent",
            "trains on latent level and cross-entropy, without the logits level (attack.alpha=0)",
        ),
        ("removalnet_logits", "trains on logits level and cross-entropy, without the latent level (attack.beta=0)"),
        (
            "removalnet_ce",
            "trains on cross-entropy, without the latent level (attack.beta=0), without the logits level "
            "(attack.alpha=0)",
        ),
    ],
)
def test_an_ablation_says_what_it_leaves_out_and_solves_the_rest(
    option: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    solved = set()
    for name in ("latent_target", "logits_target"):
        original = getattr(RemovalNet, name)

        def noted(self: RemovalNet, *given: Any, name: str = name, original: Any = original) -> Any:
            solved.add(name)
            return original(self, *given)

        monkeypatch.setattr(RemovalNet, name, noted)
    config = load_config([f"attack={option}"]).attack
    assert isinstance(config, RemovalNetConfig)
    small = replace(config, layer="layer1", iterations=2, batch_size=8, num_poison_steps=1)
    with caplog.at_level(logging.INFO):
        surrogate = RemovalNet(small)(victim(), images())
    assert solved == {
        name for name, weight in (("latent_target", small.beta), ("logits_target", small.alpha)) if weight
    }
    assert f"removalnet: {said}" in [record.getMessage() for record in caplog.records]
    assert all(value.isfinite().all() for value in surrogate.state_dict().values())


def test_a_level_that_is_left_out_changes_the_rest_by_nothing() -> None:
    """A weight so small that its term is rounded away gives the same network as 0."""
    for name in ("alpha", "beta"):
        nets = [RemovalNet(replace(SMALL, **{name: value}))(victim(), images()) for value in (0.0, 1e-30)]
        for a, b in zip(*(net.state_dict().values() for net in nets), strict=True):
            torch.testing.assert_close(a, b)


def test_presets_of_the_ablations_are_removalnets_but_for_the_weights() -> None:
    for dataset in ("digits", "fashion_mnist", "gtsrb", "celeba"):
        whole = load_config(["attack=removalnet", f"dataset={dataset}"]).attack
        for option, zero in (
            ("latent", {"alpha": 0.0}),
            ("logits", {"beta": 0.0}),
            ("ce", {"alpha": 0.0, "beta": 0.0}),
        ):
            assert load_config([f"attack=removalnet_{option}", f"dataset={dataset}"]).attack == replace(whole, **zero)  # type: ignore[type-var, arg-type]


def test_the_latent_target_may_start_from_the_victims_features() -> None:
    split = SplitModel(victim(), "layer1")
    moved = copy.deepcopy(split)
    with torch.no_grad():
        moved.model.get_parameter("layer1.0.bn2.bias").add_(100)
        own, start = moved.head(images(6)), split.head(images(6))
    attack = RemovalNet(replace(SMALL, num_poison_steps=0, rho=0.01))
    y_B = torch.zeros(6, dtype=torch.int64)
    for given, near in ((None, own), (start, start)):
        z1, _ = attack.latent_target(Network(moved), own, y_B, DRAWS, given)
        assert ((z1 - near >= 0) & (z1 - near < math.tan(1) + 1e-3)).all()  # tan(u), with u in [0, 1)


def test_features_stay_near_the_victims_if_the_target_starts_there() -> None:
    """The published target runs ahead of the features, which follow it as long as it runs."""
    sizes = {}
    for start in ("surrogate", "victim"):
        config = replace(SMALL, latent_start=start, iterations=120, learning_rate=0.005, rho=0.01, batch_size=16)
        surrogate = RemovalNet(config)(victim(), images())
        with torch.no_grad():
            sizes[start] = (
                SplitModel(surrogate, "layer1").head(images()) - SplitModel(victim(), "layer1").head(images())
            ).mean()
    assert sizes["victim"] < math.tan(1) < sizes["surrogate"]


@pytest.mark.parametrize(
    ("channels", "rho", "count", "words"),
    [
        (
            16,
            0.02,
            0,
            "moves nothing: attack.rho=0.02 of 16 channels is 1, which has nowhere to go; attack.rho above 0.0625",
        ),
        (16, 0.0625, 0, "attack.rho above 0.0625 shuffles 2"),
        (16, 0.063, 2, "each shuffle permutes 2 of 16 channels (attack.rho=0.063)"),
        (16, 0.125, 2, "permutes 2 of 16"),
        (50, 0.02, 0, "attack.rho above 0.02 shuffles 2"),
        (128, 0.02, 3, "permutes 3 of 128"),
    ],
)
def test_a_shuffle_that_moves_nothing_is_said(channels: int, rho: float, count: int, words: str) -> None:
    assert shuffled(channels, rho) == count
    assert words in shuffle_in_words(channels, rho)


def test_the_first_step_says_what_the_shuffle_does(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        RemovalNet(SMALL)(victim(), images())
    said = [record.getMessage() for record in caplog.records]
    assert said.count("removalnet: each shuffle permutes 2 of 4 channels (attack.rho=0.5)") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0, "beta": 0.0, "gamma": 0.0}, "leave nothing to train on"),
        ({"alpha": -0.1}, "attack.alpha"),
        ({"beta": -1.0}, "attack.beta"),
        ({"gamma": -1.0}, "attack.gamma"),
        ({"latent_start": "nobody"}, "attack.latent_start='nobody'"),
        ({"latent_start": "victim", "beta": 0.0}, "attack.latent_start=victim has no effect with attack.beta=0"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SMALL, **settings).check()
