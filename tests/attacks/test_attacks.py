"""Attacks on a real victim of tiny digits: what they may touch, what they must not, and what they count."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rnet.attacks.base import AttackContext
from rnet.attacks.finetune.attack import FineTune
from rnet.attacks.finetune.config import FineTuneConfig
from rnet.attacks.independent.attack import Independent
from rnet.attacks.independent.config import IndependentConfig
from rnet.attacks.registry import ATTACKS
from rnet.attacks.removalnet import bilevel
from rnet.attacks.removalnet.attack import RemovalNet
from rnet.attacks.removalnet.config import RemovalNetConfig
from rnet.config.run import load_config
from rnet.cutting.split import SplitModel
from rnet.data.batches import TrainingBatches
from rnet.data.images import Dataset
from rnet.draws import BatchDraws, channel_permutations, uniform
from rnet.engines.lower_level import Network, on_frozen_copy
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.stages import stages
from rnet.training.labels import answer_table
from tests.attacks.table import FRESH, TABLE, TRAINED
from tests.tiny_runs import tiny

TINY_ATTACK = RemovalNetConfig(seed=1, substitute_size=48, iterations=3, batch_size=16, num_poison_steps=3, rho=0.5)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_table_has_every_attack_of_rnet() -> None:
    """But for given suspects, which have tests of their own."""
    listed = {load_config(overrides).attack.name for overrides in TABLE.values()}
    assert listed == {*ATTACKS.own()} - {"import"}


@pytest.mark.parametrize("case", TABLE)
def test_an_attack_changes_its_own_model_and_never_the_victim(
    case: str, context: AttackContext, victim: Classifier, dataset: Dataset
) -> None:
    suspect = ATTACKS.build(load_config(TABLE[case]).attack).run(dataset, context)
    same = [torch.equal(a, b) for a, b in zip(_state(victim).values(), _state(suspect.model).values(), strict=True)]
    assert all(same) == (case == "identity")
    assert suspect.model is not victim
    assert suspect.derived == (case != "independent")
    assert all(torch.isfinite(value).all() for value in suspect.model.state_dict().values())
    assert not any(parameter._backward_hooks for parameter in suspect.model.parameters())


def test_the_lower_level_leaves_gradients_parameters_and_buffers_alone(victim: Classifier, dataset: Dataset) -> None:
    split = SplitModel(copy.deepcopy(victim).requires_grad_(True), "layer1").train()
    before = _state(split)
    lower = on_frozen_copy(split, dataset.substitute.pixels(torch.arange(1)))
    draws = BatchDraws(seed=0, step=0, sample_ids_B=torch.arange(16))
    x_BCHW, y_B = dataset.substitute.pixels(torch.arange(16)), dataset.substitute.labels_N[:16]
    z1, q_BK, distance = lower(lambda net, x, y: RemovalNet(TINY_ATTACK).lower_level(net, x, y, draws), x_BCHW, y_B)
    assert all(parameter.grad is None for parameter in split.parameters())
    assert all(torch.equal(before[name], value) for name, value in split.state_dict().items())
    assert all(module.training for module in split.model.modules())
    assert not z1.requires_grad
    assert torch.allclose(q_BK.sum(dim=1), torch.ones(16))
    with torch.no_grad():
        torch.testing.assert_close(distance, (z1 - split.eval().head(x_BCHW)).double().norm().float())


def test_one_step_moves_each_batch_norm_of_the_head_once(
    context: AttackContext, victim: Classifier, dataset: Dataset
) -> None:
    suspect = RemovalNet(TINY_ATTACK).run(dataset, context)
    moved = suspect.model.backbone.get_submodule("bn1").num_batches_tracked
    assert moved - victim.backbone.get_submodule("bn1").num_batches_tracked == TINY_ATTACK.iterations


def test_the_latent_target_moves_away_from_the_features_and_keeps_the_label(
    victim: Classifier, dataset: Dataset
) -> None:
    split = SplitModel(victim, "layer1")
    x_BCHW = dataset.substitute.pixels(torch.arange(32))
    with torch.no_grad():
        z, y_B = split.head(x_BCHW), split(x_BCHW).argmax(1)
    attack = RemovalNet(RemovalNetConfig(num_poison_steps=40, rho=0.1))
    few = RemovalNet(RemovalNetConfig(num_poison_steps=0, rho=0.1))
    draws = BatchDraws(seed=0, step=0, sample_ids_B=torch.arange(32))
    start, end = (a.latent_target(Network(split), z, y_B, draws)[0] for a in (few, attack))
    losses = [nn.functional.cross_entropy(split.tail(z1), y_B).item() for z1 in (start, end)]
    assert losses[1] < losses[0]
    assert torch.linalg.vector_norm(end - z) > 0


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_latent_target_is_the_start_followed_by_shuffled_steps(
    steps: int, distance: str, victim: Classifier, dataset: Dataset
) -> None:
    """As the paper has it: every step shuffles, then moves."""
    split = SplitModel(victim, "layer1")
    with torch.no_grad():
        z = split.head(dataset.substitute.pixels(torch.arange(8)))
    y_B = dataset.substitute.labels_N[:8]
    ids_B = torch.arange(100, 108)
    u = uniform(7, "latent start", 2, ids_B, z[0].numel(), device="cpu").view(z.shape)
    perms = channel_permutations(7, "shuffle", 2, ids_B, steps + 1, z.shape[1], 0.5, device="cpu")
    net = Network(split)
    expected = bilevel.apply_permutation(z + torch.tan(u), perms[0], 1)
    for perm_BC in perms[1:]:
        expected = bilevel.apply_permutation(expected, perm_BC, 1)
        share = bilevel.distance_share(expected, z, distance)
        expected, _ = bilevel.latent_step(net, expected, z, share, y_B, None, 1, kind=distance)
    attack = RemovalNet(replace(TINY_ATTACK, num_poison_steps=steps, distance=distance))
    draws = BatchDraws(seed=7, step=torch.tensor(2), sample_ids_B=ids_B)
    found, share = attack.latent_target(net, z, y_B, draws)
    assert torch.equal(found, expected)
    torch.testing.assert_close(share, bilevel.distance_share(expected, z, distance))


def test_a_seam_that_is_overridden_is_used(victim: Classifier, dataset: Dataset) -> None:
    class Variant(RemovalNet):
        def latent_start(self, z: Tensor, draws: BatchDraws) -> Tensor:
            return z + 1

        def shuffle(self, channels: int, draws: BatchDraws) -> list[Tensor | None]:
            return [None] * 3

        def latent_step(self, network: Network, z1: Tensor, z: Tensor, share: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
            return z1 * 2, share

        def logits_target(self, network: Network, logits_BK: Tensor, y_B: Tensor) -> Tensor:
            return logits_BK * 0

    split = SplitModel(victim, "layer1")
    x_BCHW = dataset.substitute.pixels(torch.arange(4))
    draws = BatchDraws(seed=7, step=2, sample_ids_B=torch.arange(4))
    with torch.no_grad():
        z1, q_BK, _ = Variant(TINY_ATTACK).lower_level(Network(split), x_BCHW, torch.arange(4), draws)
        assert torch.equal(z1, (split.head(x_BCHW) + 1) * 4)
    assert not q_BK.any()


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("target", ["official", "logits", "probs"])
def test_every_target_and_distance_gives_a_finite_attack(
    target: str, distance: str, context: AttackContext, dataset: Dataset
) -> None:
    config = RemovalNetConfig(
        seed=1, substitute_size=48, iterations=3, batch_size=16, num_poison_steps=2, target=target, distance=distance
    )
    suspect = RemovalNet(config).run(dataset, context)
    assert all(torch.isfinite(value).all() for value in suspect.model.state_dict().values())


def labels_of(victim: Classifier, dataset: Dataset, *, flip: bool) -> Tensor:
    cpu, first = torch.device("cpu"), lambda logits_BK: logits_BK.argmax(1)
    return answer_table(victim, dataset.substitute, cpu, first, flip=flip, batch_size=7)


def test_victim_labels_are_those_of_the_image_as_augmented(victim: Classifier, dataset: Dataset) -> None:
    table_N2 = labels_of(victim, dataset, flip=True)
    for index in range(len(dataset.substitute)):
        x_1CHW = dataset.substitute.pixels(torch.tensor([index]))
        assert table_N2[index, 0] == victim(x_1CHW).argmax()
        assert table_N2[index, 1] == victim(x_1CHW.flip(-1)).argmax()


def test_a_mirrored_image_is_asked_about_only_where_images_are_mirrored(victim: Classifier, dataset: Dataset) -> None:
    both_N2, one_N1 = (labels_of(victim, dataset, flip=flip) for flip in (True, False))
    assert torch.equal(one_N1, both_N2[:, :1])


def test_an_attack_with_flips_uses_the_label_of_the_mirrored_image(
    context: AttackContext, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = RemovalNet.loss

    def spy(self: RemovalNet, logits_BK: Tensor, z: Tensor, z1: Tensor, q_BK: Tensor, y_B: Tensor) -> object:
        seen.append(y_B)
        return original(self, logits_BK, z, z1, q_BK, y_B)

    monkeypatch.setattr(RemovalNet, "loss", spy)
    flipping = copy.copy(dataset)
    object.__setattr__(flipping, "flip", True)
    inputs: list[Tensor] = []
    handle = context.victim_forward  # the surrogate is a copy: record its inputs through the batches instead
    original_call = TrainingBatches.__call__

    def record(self: TrainingBatches, step: int) -> object:
        batch = original_call(self, step)
        inputs.append(batch.x_BCHW)
        return batch

    monkeypatch.setattr(TrainingBatches, "__call__", record)
    RemovalNet(TINY_ATTACK).run(flipping, context)
    for x_BCHW, y_B in zip(inputs[-len(seen) :], seen, strict=True):  # the first may be fetched before, to be shown
        assert torch.equal(handle(x_BCHW).argmax(1), y_B)


def test_fine_tuning_the_last_half_leaves_the_first_parameters_alone(
    context: AttackContext, victim: Classifier, dataset: Dataset
) -> None:
    config = FineTuneConfig(seed=1, substitute_size=48, iterations=3, batch_size=16, fraction=0.5)
    suspect = FineTune(config).run(dataset, context)
    pairs = list(zip(victim.parameters(), suspect.model.parameters(), strict=True))
    changed = [not torch.equal(a, b) for a, b in pairs]
    count = int(0.5 * len(pairs))
    assert not any(changed[:-count])
    assert all(changed[-count:])


def test_the_halves_of_the_independent_models_share_no_image(dataset: Dataset) -> None:
    first, second = (
        Independent(IndependentConfig(portion=portion)).portion(dataset) for portion in ("first_half", "second_half")
    )
    positions = [set(part.positions_N.tolist()) for part in (first, second)]
    assert not positions[0] & positions[1]
    assert positions[0] | positions[1] == set(dataset.train.positions_N.tolist())


def test_an_independent_model_with_the_victims_seed_is_not_the_victim(dataset: Dataset, tmp_path: Path) -> None:
    from rnet.stages.store import Store

    config = tiny("attack=independent", "attack.seed=0", "train.epochs=1")
    folder = stages.attack(config, Store(tmp_path))
    assert (folder.result() or {})["agreement"] < 1.0


class Plain(nn.Module):
    """Somebody's network: no Classifier, and it takes what it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(self.layer1(x_BCHW).mean((2, 3)))


@pytest.mark.parametrize("case", TRAINED)
def test_an_attack_in_a_notebook_takes_any_module(case: str) -> None:
    config = load_config([*TABLE[case], "attack.batch_size=8"]).attack
    if hasattr(config, "layer"):
        config = replace(config, layer="layer1")
    if case == "knockoff_adaptive":
        config = replace(config, queries=12)
    attack = ATTACKS.build(config)
    torch.manual_seed(0)
    victim, start = Plain().train(), Plain() if case in FRESH else None
    before, images_NCHW = _state(victim), torch.randn(20, 3, 6, 6)
    labels_N = torch.arange(20) % 4
    first, again, other = (attack(victim, images_NCHW, labels_N, start=start, seed=seed) for seed in (1, 1, 2))
    assert type(first) is Plain
    assert not first.training
    assert victim.training
    assert all(torch.equal(before[name], value) for name, value in victim.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in victim.parameters())
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.fc.weight, before["fc.weight"])
    assert not torch.equal(first.fc.weight, other.fc.weight)
    if start is not None:
        assert not torch.equal(first.fc.weight, start.fc.weight)


@pytest.mark.parametrize(
    ("case", "settings", "words"),
    [
        ("distill", {}, ["distill", "untrained network", "start="]),
        ("finetune", {"start": Plain()}, ["finetune", "leave start out"]),
        ("retrain", {}, ["true labels", "labels_N", "attack.labelled=false"]),
        ("knockoff", {"start": Plain(), "queries": 30}, ["attack.queries=30", "20 images"]),
        ("knockoff_adaptive", {"start": Plain(), "groups": "labels", "queries": 12}, ["labels_N", "clusters"]),
        ("knockoff_adaptive", {"start": Plain(), "clusters": 21, "queries": 12}, ["attack.clusters=21", "20 images"]),
    ],
)
def test_what_a_notebook_does_not_give_is_asked_for(case: str, settings: dict[str, Any], words: list[str]) -> None:
    config, start = load_config(TABLE[case]).attack, settings.get("start")
    attack = ATTACKS.build(replace(config, **{key: value for key, value in settings.items() if key != "start"}))
    with pytest.raises(UserError) as caught:
        attack(Plain(), torch.randn(20, 3, 6, 6), start=start)
    for word in words:
        assert word in str(caught.value)


def test_removalnet_is_imported_by_name_and_its_configuration_without_torch() -> None:
    from rnet.attacks import removalnet

    assert removalnet.RemovalNet is RemovalNet
    program = "import sys; from rnet.attacks.removalnet import RemovalNetConfig; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
