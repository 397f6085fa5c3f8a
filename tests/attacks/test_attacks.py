"""Attacks on a real victim of tiny digits: what they may touch, what they must not, and what they count."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rnet.attacks.base import AttackContext, label_table
from rnet.attacks.finetune.attack import FineTune
from rnet.attacks.finetune.config import FineTuneConfig
from rnet.attacks.independent.attack import Independent
from rnet.attacks.independent.config import IndependentConfig
from rnet.attacks.registry import ATTACKS
from rnet.attacks.removalnet.attack import RemovalNet, bilevel
from rnet.attacks.removalnet.config import RemovalNetConfig
from rnet.config.run import load_config
from rnet.cutting.split import SplitModel
from rnet.data.batches import TrainingBatches
from rnet.data.images import Dataset
from rnet.data.registry import load_dataset
from rnet.engines.config import EngineConfig
from rnet.engines.plain import PlainEngine
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.stages import stages
from rnet.training.config import TrainConfig
from rnet.training.loop import Run
from tests.tiny_runs import tiny

TINY_ATTACK = RemovalNetConfig(seed=1, substitute_size=48, iterations=3, batch_size=16, num_poison_steps=3, rho=0.5)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(tiny().dataset)


@pytest.fixture
def victim(dataset: Dataset) -> Iterator[Classifier]:
    model = stages.build(ModelConfig(width=4), dataset, seed=3).train()
    with torch.no_grad():
        model(dataset.train.pixels())  # moves the batch norms off their initial statistics
    model.eval().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    yield model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the victim changed"
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.fixture
def context(victim: Classifier, dataset: Dataset, tmp_path: Path) -> AttackContext:
    run = Run(
        folder=tmp_path, label="test", config=EngineConfig(), device=torch.device("cpu"), precision="fp32",
        identity="test", measure=lambda model: {}, on_checkpoint=lambda step, total: None, quiet=True,
    )  # fmt: skip
    return AttackContext(
        copy_of_victim=lambda: copy.deepcopy(victim), victim_forward=victim,
        train=TrainConfig(epochs=1, batch_size=50), default_layer="layer1",
        run=run, seed=1, build=lambda seed: stages.build(ModelConfig(width=4), dataset, seed),
    )  # fmt: skip


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "overrides",
    [
        ["attack=identity"],
        ["attack=finetune", "attack.substitute_size=48", "attack.iterations=3", "attack.batch_size=16"],
        ["attack=removalnet", "attack.substitute_size=48", "attack.iterations=3", "attack.batch_size=16"],
        ["attack=independent"],
    ],
)
def test_an_attack_changes_its_own_model_and_never_the_victim(
    overrides: list[str], context: AttackContext, dataset: Dataset
) -> None:
    suspect = ATTACKS.build(load_config(overrides).attack).run(dataset, context)
    same = [
        torch.equal(a, b)
        for a, b in zip(_state(context.copy_of_victim()).values(), _state(suspect.model).values(), strict=True)
    ]
    assert all(same) == (overrides == ["attack=identity"])
    assert suspect.model is not context.victim_forward
    assert suspect.derived == (overrides != ["attack=independent"])


def test_the_inner_loop_leaves_gradients_parameters_and_buffers_alone(victim: Classifier, dataset: Dataset) -> None:
    surrogate = copy.deepcopy(victim).requires_grad_(True)
    split = SplitModel(surrogate, "layer1")
    optimizer = torch.optim.SGD(split.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    engine = PlainEngine(split, optimizer, scheduler, precision="fp32")
    batches = TrainingBatches(dataset.substitute, batch_size=16, seed=0, flip=False, device="cpu")
    split.train()
    before = _state(split)
    batch = batches(0)
    z1, q_BK, _ = RemovalNet(TINY_ATTACK).lower_level(engine, split, batch, batch.labels_B, seed=0, t=0)
    assert all(parameter.grad is None for parameter in split.parameters())
    assert all(torch.equal(before[name], value) for name, value in split.state_dict().items())
    assert not z1.requires_grad
    assert torch.allclose(q_BK.sum(dim=1), torch.ones(16))


def test_one_step_moves_each_batch_norm_of_the_head_once(context: AttackContext, dataset: Dataset) -> None:
    suspect = RemovalNet(TINY_ATTACK).run(dataset, context)
    moved = suspect.model.backbone.get_submodule("bn1").num_batches_tracked
    assert moved - context.copy_of_victim().backbone.get_submodule("bn1").num_batches_tracked == TINY_ATTACK.iterations


def test_the_latent_target_moves_away_from_the_features_and_keeps_the_label(
    victim: Classifier, dataset: Dataset
) -> None:
    split = SplitModel(victim, "layer1")
    x_BCHW = dataset.substitute.pixels(torch.arange(32))
    with torch.no_grad():
        z, y_B = split.head(x_BCHW), split(x_BCHW).argmax(1)
    attack = RemovalNet(RemovalNetConfig(num_poison_steps=40, rho=0.1))
    few = RemovalNet(RemovalNetConfig(num_poison_steps=0, rho=0.1))
    start, end = (a.latent_target(split.tail, z, y_B, torch.arange(32), 0, 0) for a in (few, attack))
    losses = [nn.functional.cross_entropy(split.tail(z1), y_B).item() for z1 in (start, end)]
    assert losses[1] < losses[0]
    assert torch.linalg.vector_norm(end - z) > 0


def test_the_latent_target_is_the_start_followed_by_shuffled_steps(victim: Classifier, dataset: Dataset) -> None:
    from rnet.draws import channel_permutations, uniform

    split = SplitModel(victim, "layer1")
    with torch.no_grad():
        z = split.head(dataset.substitute.pixels(torch.arange(8)))
    y_B = dataset.substitute.labels_N[:8]
    ids_B = torch.arange(100, 108)
    u = uniform(7, "latent start", 2, ids_B, z[0].numel(), device="cpu").view(z.shape)
    perms = channel_permutations(7, "shuffle", 2, ids_B, 4, z.shape[1], 0.5, device="cpu")
    expected = bilevel.latent_start(z, u, perms[0], 1)
    for perm_BC in perms[1:]:
        expected = bilevel.latent_step(split.tail, expected, z, y_B, perm_BC, 1)
    assert torch.equal(RemovalNet(TINY_ATTACK).latent_target(split.tail, z, y_B, ids_B, 7, 2), expected)


def test_every_channel_permutation_of_a_step_is_used(victim: Classifier) -> None:
    calls = []

    z = torch.randn(4, 4, 8, 8)

    def tail(z1: Tensor) -> Tensor:
        calls.append(z1.shape)
        return z1.mean(dim=(2, 3))

    RemovalNet(TINY_ATTACK).latent_target(tail, z, torch.zeros(4, dtype=torch.long), torch.arange(4), 0, 0)
    assert len(calls) == TINY_ATTACK.num_poison_steps


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


def test_victim_labels_are_those_of_the_image_as_augmented(victim: Classifier, dataset: Dataset) -> None:
    table_N2 = label_table(victim, dataset.substitute, torch.device("cpu"), batch_size=7)
    for index in range(len(dataset.substitute)):
        x_1CHW = dataset.substitute.pixels(torch.tensor([index]))
        assert table_N2[index, 0] == victim(x_1CHW).argmax()
        assert table_N2[index, 1] == victim(x_1CHW.flip(-1)).argmax()


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
    for x_BCHW, y_B in zip(inputs, seen, strict=True):
        assert torch.equal(handle(x_BCHW).argmax(1), y_B)


def test_fine_tuning_the_last_half_leaves_the_first_parameters_alone(context: AttackContext, dataset: Dataset) -> None:
    config = FineTuneConfig(seed=1, substitute_size=48, iterations=3, batch_size=16, fraction=0.5)
    suspect = FineTune(config).run(dataset, context)
    pairs = list(zip(context.copy_of_victim().parameters(), suspect.model.parameters(), strict=True))
    changed = [not torch.equal(a, b) for a, b in pairs]
    count = int(0.5 * len(pairs))
    assert not any(changed[:-count])
    assert all(changed[-count:])


def test_the_halves_of_the_independent_models_share_no_image(dataset: Dataset) -> None:
    first, second = (
        Independent(IndependentConfig(portion=portion)).portion(dataset.train)
        for portion in ("first_half", "second_half")
    )
    positions = [set(part.positions_N.tolist()) for part in (first, second)]
    assert not positions[0] & positions[1]
    assert positions[0] | positions[1] == set(dataset.train.positions_N.tolist())


def test_an_independent_model_with_the_victims_seed_is_not_the_victim(dataset: Dataset, tmp_path: Path) -> None:
    from rnet.stages.store import Store

    config = tiny("attack=independent", "attack.seed=0", "train.epochs=1")
    folder = stages.attack(config, Store(tmp_path))
    assert (folder.result() or {})["agreement"] < 1.0
