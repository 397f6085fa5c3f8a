"""What a knockoff asks and learns: its budget, answers, schedule and choice of images; and how well it does."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rnet.attacks.base import AttackContext
from rnet.attacks.knockoff.attack import Knockoff
from rnet.attacks.knockoff.config import KnockoffConfig
from rnet.attacks.knockoff.selection import Menu, groups
from rnet.data.images import Dataset, Part, TensorSource
from rnet.models.classifier import Classifier
from rnet.stages import stages
from rnet.stages.store import Store
from tests.tiny_runs import tiny

SMALL = KnockoffConfig(substitute_size=40, epochs=10, batch_size=16, decay_every=4)
ADAPTIVE = replace(SMALL, strategy="adaptive", queries=21, round_size=5)


@pytest.mark.parametrize("config", [replace(SMALL, queries=21), ADAPTIVE], ids=["random", "adaptive"])
@pytest.mark.parametrize("answers", ["posteriors", "labels"])
def test_the_victim_is_asked_about_each_image_once_and_within_the_budget(
    config: KnockoffConfig, answers: str, context: AttackContext, dataset: Dataset, victim: Classifier
) -> None:
    asked: list[Tensor] = []

    def ask(x_BCHW: Tensor) -> Tensor:
        asked.append(x_BCHW)
        return victim(x_BCHW)

    attack = Knockoff(replace(config, answers=answers))
    training = attack.prepare(replace(dataset, flip=True), replace(context, victim_forward=ask))
    asked_NCHW = torch.cat(asked)
    assert len(asked_NCHW) == len(training.part) == training.cost["victim_queries"] == 21
    assert len(set(training.part.positions_N.tolist())) == 21
    assert set(training.part.positions_N.tolist()) <= set(dataset.substitute.positions_N.tolist())
    assert torch.equal(training.part.pixels(), asked_NCHW)
    wanted_NK = victim(asked_NCHW).softmax(1)
    if answers == "labels":
        wanted_NK = nn.functional.one_hot(wanted_NK.argmax(1), 10).float()
    torch.testing.assert_close(training.transfer.answers_NM[:, 0], wanted_NK)
    batch = training.batches(0)
    assert not batch.flipped_B.any(), "the answers are those of images as they are"


def test_a_knockoff_takes_the_steps_of_the_authors_program(
    context: AttackContext, dataset: Dataset, victim: Classifier
) -> None:
    training = Knockoff(SMALL).prepare(dataset, context)
    plain = copy.deepcopy(training.surrogate).train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.5, weight_decay=5e-4)
    assert training.num_steps == 25  # 10 epochs of 40 images in batches of 16
    for t in range(25):
        x_BCHW = training.batches(t).x_BCHW
        optimizer.param_groups[0]["lr"] = rate = 0.01 * 0.1 ** (t // 10)  # a tenth after 4 epochs of 2.5 steps
        assert training.engine.learning_rate == pytest.approx(rate)
        optimizer.zero_grad()
        soft_BK = victim(x_BCHW).softmax(1)
        torch.mean(torch.sum(-soft_BK * nn.functional.log_softmax(plain(x_BCHW), dim=1), 1)).backward()
        optimizer.step()
        training.step(t)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(training.surrogate.state_dict()[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_a_knockoff_starts_from_nothing_of_the_victim(context: AttackContext, dataset: Dataset) -> None:
    def nobody() -> Classifier:
        raise AssertionError("it asked for the victim's weights")

    first, other = (
        Knockoff(SMALL).prepare(dataset, replace(context, copy_of_victim=nobody, seed=seed)).surrogate.state_dict()
        for seed in (1, 2)
    )
    assert not torch.equal(first["backbone.fc.weight"], other["backbone.fc.weight"])


def test_clusters_are_groups_of_images_that_look_alike() -> None:
    dark, light = torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.full((10, 1, 8, 8), 255, dtype=torch.uint8)
    images = torch.cat([dark, light])[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    labels_N = torch.arange(20) % 5
    part = Part(source=TensorSource(images), positions_N=torch.arange(20), labels_N=labels_N)
    found_N = groups(replace(ADAPTIVE, clusters=2), part, 10, seed=3)
    is_light_N = images.flatten(1)[:, 0] > 0
    assert {tuple(found_N[mask].unique().tolist()) for mask in (is_light_N, ~is_light_N)} == {(0,), (1,)}
    assert torch.equal(groups(replace(ADAPTIVE, groups="labels"), part, 10, seed=3), labels_N)
    assert len(groups(ADAPTIVE, part, 2, seed=3).unique()) == 2


def test_a_menu_offers_each_image_once_and_follows_the_bandit() -> None:
    groups_N = torch.tensor([0, 1, 2, 2] * 25)
    menu = Menu(groups_N, seed=1)
    for _ in range(40):
        menu.bandit.learn(1, 1.0)
        menu.bandit.learn(0, -1.0)
    first = menu.take(30)
    assert all(int(groups_N[image]) == group for group, image in first)
    counts = np.bincount([group for group, _ in first], minlength=3)
    assert counts[1] > max(counts[0], counts[2])
    rest = menu.take(70)
    assert sorted(image for _, image in first + rest) == list(range(100))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [[], ["attack.answers=labels"]], ids=["posteriors", "labels"])
def test_a_knockoff_reaches_nine_tenths_of_the_victims_accuracy_on_digits(settings: list[str], tmp_path: Path) -> None:
    recipe = ["dataset.train_size=null", "dataset.test_size=null", "dataset.substitute_pool=500", "model.width=8",
              "train.epochs=8"]  # fmt: skip
    config = tiny(*recipe, "attack=knockoff", "attack.substitute_size=500", "attack.epochs=60", *settings)
    found = stages.attack(config, Store(tmp_path)).result() or {}
    assert found["victim_accuracy"] > 0.9
    assert found["accuracy"] >= 0.9 * found["victim_accuracy"]
    assert found["cost"]["victim_queries"] == 500
