"""Each baseline beside a plain program written from its definition, step by step; and what it starts from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from rnet.attacks.base import AttackContext
from rnet.attacks.prune.attack import Prune
from rnet.attacks.prune.config import PruneConfig
from rnet.attacks.registry import ATTACKS
from rnet.attacks.retrain.attack import Retrain
from rnet.attacks.retrain.config import RetrainConfig
from rnet.attacks.training import Training
from rnet.config.run import load_config
from rnet.data.images import Dataset
from rnet.draws import derive_seed, uniform
from rnet.models.classifier import Classifier
from tests.attacks.table import TABLE

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def prepared(case: str, dataset: Dataset, context: AttackContext, *, flip: bool = False) -> Training:
    attack = ATTACKS.build(load_config(TABLE[case]).attack)
    return attack.prepare(replace(dataset, flip=flip), context)


def follow(
    training: Training, plain: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, rates: list[float]
) -> None:
    """Takes the steps of both programs and compares their weights; those of the attack are on its own batches."""
    plain.train()
    for t, rate in enumerate(rates):
        batch = training.batches(t)
        answers_B = training.transfer.answers(batch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss(plain, batch.x_BCHW, answers_B).backward()
        optimizer.step()
        training.step(t)
    own = training.surrogate.state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-6, msg=name)


def cosine(rate: float, steps: int) -> list[float]:
    return [rate * (1 + float(torch.tensor(t * torch.pi / steps).cos())) / 2 for t in range(steps)]


def released_loss(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
    """Cross-entropy and the penalty .5 * beta * |w|^2 of linear layers, written out."""
    linear = [p for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters() if p.requires_grad]
    return F.cross_entropy(model(x_BCHW), y_B) + 0.5 * 0.01 * sum(p.square().sum() for p in linear)


def released_rate(case: str) -> float:
    """.01 * (1 + u), u from the attack's seed 1."""
    seed = derive_seed(derive_seed(1, load_config(TABLE[case]).attack.name), "learning rate")
    u = torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).item()
    assert 0 <= u < 1
    return 0.01 * (1 + u)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("case", ["finetune_labelled", "finetune_labelled_half", "retrain", "retrain_layers"])
def test_fine_tuning_as_released_takes_the_steps_of_its_program(
    case: str, flip: bool, dataset: Dataset, context: AttackContext
) -> None:
    training = prepared(case, dataset, context, flip=flip)
    plain = copy.deepcopy(training.surrogate)
    trained = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0, weight_decay=1e-4)
    assert len(training.part) == len(dataset.train)
    for t in range(3):
        batch = training.batches(t)
        assert torch.equal(training.transfer.answers(batch), dataset.train.labels_N[batch.indices_B])
    follow(training, plain, released_loss, optimizer, cosine(released_rate(case), 3))


def test_without_labels_the_victim_labels_the_attackers_images(
    dataset: Dataset, context: AttackContext, victim: Classifier
) -> None:
    training = prepared("retrain_unlabelled", dataset, context)
    assert len(training.part) == 48
    positions = set(training.part.positions_N.tolist())
    assert positions <= set(dataset.substitute.positions_N.tolist())
    assert torch.equal(training.transfer.answers_NM[:, 0], victim(training.part.pixels()).argmax(1))


def test_another_seed_draws_another_rate_and_the_rate_can_be_fixed(context: AttackContext) -> None:
    random, fixed = (Retrain(RetrainConfig(random_rate=choice)) for choice in (True, False))
    assert len({random.learning_rate(seed) for seed in range(5)}) == 5
    assert {fixed.learning_rate(seed) for seed in range(5)} == {0.01}


@pytest.mark.parametrize(("layers", "names"), [(1, ["4"]), (2, ["2", "4"])])
def test_retraining_starts_with_new_last_layers_and_the_rest_of_the_victim(layers: int, names: list[str]) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3, bias=False))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    attack = Retrain(RetrainConfig(layers=layers, trained="layers"))
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    attack.begin(net, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    changed = {name.split(".")[0] for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(names)
    torch.manual_seed(derive_seed(3, "new layers"))
    for name in names:
        old = net.get_submodule(name)
        new = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None)
        assert torch.equal(old.weight, new.weight)
    own = {id(p) for name in names for p in net.get_submodule(name).parameters()}
    assert {id(p) for p in attack.trained(net)} == own


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8, 0.999])
def test_pruning_removes_what_torch_would_prune(rate: float, linear: bool, victim: Classifier) -> None:
    found = Prune(PruneConfig(rate=rate, linear=linear)).zeros(victim)
    theirs = copy.deepcopy(victim)
    kinds = (nn.Conv2d, nn.Linear) if linear else (nn.Conv2d,)
    layers = [(module, "weight") for module in theirs.modules() if isinstance(module, kinds)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=rate)
    masks = {name: value for name, value in theirs.named_buffers() if name.endswith("_mask")}
    names = {parameter: name for name, parameter in victim.named_parameters()}
    assert {f"{names[parameter]}_mask" for parameter in found} == masks.keys()
    for parameter, zero in found.items():
        assert torch.equal(~zero, masks[f"{names[parameter]}_mask"].bool())


def test_a_pruned_network_is_trained_as_torch_trains_it_and_its_zeros_stay(
    dataset: Dataset, context: AttackContext, victim: Classifier
) -> None:
    """torch multiplies weights by masks in each forward pass; here their gradients are masked."""
    training = prepared("prune", dataset, context)
    theirs = copy.deepcopy(victim).requires_grad_(True)
    layers = [(module, "weight") for module in theirs.modules() if isinstance(module, nn.Conv2d)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=0.8)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-4)
    zeros = {name: value == 0 for name, value in training.surrogate.named_parameters() if value.ndim == 4}
    assert sum(int(zero.sum()) for zero in zeros.values()) == round(0.8 * sum(zero.numel() for zero in zeros.values()))
    theirs.train()
    for t, rate in enumerate(cosine(released_rate("prune"), 3)):
        batch = training.batches(t)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        released_loss(theirs, batch.x_BCHW, batch.labels_B).backward()
        optimizer.step()
        training.step(t)
        for name, value in training.surrogate.named_parameters():
            if name in zeros:
                assert torch.equal(value == 0, zeros[name]), f"step {t}: {name}"
    for module, _ in layers:
        prune.remove(module, "weight")
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(training.surrogate.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_distillation_takes_the_steps_of_its_formula(
    dataset: Dataset, context: AttackContext, victim: Classifier
) -> None:
    training = prepared("distill", dataset, context, flip=True)
    T, alpha = 4.0, 0.5

    def loss(model: nn.Module, x_BCHW: Tensor, _: Tensor) -> Tensor:
        logits_BK, victim_BK = model(x_BCHW), victim(x_BCHW)
        kl = F.kl_div((logits_BK / T).log_softmax(1), (victim_BK / T).softmax(1), reduction="batchmean")
        return alpha * T**2 * kl + (1 - alpha) * F.cross_entropy(logits_BK, victim_BK.argmax(1))

    plain = copy.deepcopy(training.surrogate)
    follow(training, plain, loss, torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-3),
           cosine(0.01, 3))  # fmt: skip


def test_adversarial_training_takes_the_steps_of_its_formula(
    dataset: Dataset, context: AttackContext, victim: Classifier
) -> None:
    """A plain search from the same starts, on a network in eval mode, and a plain step on what it finds."""
    training = prepared("adversarial_training", dataset, context)
    plain, epsilon, step = copy.deepcopy(training.surrogate).requires_grad_(True), 8 / 255, 2 / 255
    optimizer = torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.9, weight_decay=2e-4)
    for t, rate in enumerate(cosine(0.01, 3)):
        batch = training.batches(t)
        x_BCHW, y_B = batch.x_BCHW, dataset.train.labels_N[batch.indices_B]
        u = uniform(training.seed, "adversarial start", t, batch.stream_ids_B, x_BCHW[0].numel(), device="cpu")
        found_BCHW = (x_BCHW + epsilon * (2 * u.view_as(x_BCHW) - 1)).clamp(0, 1)
        plain.eval()
        for _ in range(10):
            found_BCHW.requires_grad_(True)
            (gradient_BCHW,) = torch.autograd.grad(F.cross_entropy(plain(found_BCHW), y_B), found_BCHW)
            found_BCHW = found_BCHW.detach() + step * gradient_BCHW.sign()
            found_BCHW = (x_BCHW + (found_BCHW - x_BCHW).clamp(-epsilon, epsilon)).clamp(0, 1)
        assert (found_BCHW - x_BCHW).abs().max() <= epsilon + 1e-6
        plain.train()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(plain(found_BCHW), y_B).backward()
        optimizer.step()
        training.step(t)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(training.surrogate.state_dict()[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_cropped_images_have_the_victims_answers_to_them_as_cropped(
    dataset: Dataset, context: AttackContext, victim: Classifier
) -> None:
    training = prepared("finetune_cropped", dataset, context)
    seen = set()
    for t in range(3):
        batch = training.batches(t)
        assert torch.equal(training.transfer.answers(batch), victim(batch.x_BCHW).argmax(1))
        plain_BCHW = training.part.pixels(batch.indices_B)
        mirrored_B = batch.flipped_B.view(-1, 1, 1, 1)
        moved_B = (torch.where(mirrored_B, plain_BCHW.flip(-1), plain_BCHW) != batch.x_BCHW).flatten(1).any(1)
        seen |= {*zip(batch.flipped_B.tolist(), moved_B.tolist(), strict=True)}
    assert {(False, True), (True, True)} <= seen


@pytest.mark.parametrize(
    ("augment", "flip", "columns"),
    [(None, False, 1), (None, True, 2), ([], True, 1), (["flip"], False, 2)],
)
def test_images_are_mirrored_as_the_attack_or_else_the_data_set_says(
    augment: list[str] | None, flip: bool, columns: int, dataset: Dataset, context: AttackContext
) -> None:
    attack = ATTACKS.build(replace(load_config(TABLE["finetune"]).attack, augment=augment))
    training = attack.prepare(replace(dataset, flip=flip), context)
    assert training.transfer.answers_NM is not None
    assert training.transfer.answers_NM.shape == (48, columns)
    assert bool(training.batches(0).flipped_B.any()) == (columns == 2)


def test_labelled_images_keep_their_labels_where_they_are_cropped(dataset: Dataset, context: AttackContext) -> None:
    config = replace(load_config(TABLE["finetune_labelled"]).attack, augment=["crop"])
    training = ATTACKS.build(config).prepare(dataset, context)
    batch = training.batches(0)
    assert torch.equal(training.transfer.answers(batch), dataset.train.labels_N[batch.indices_B])
    assert not torch.equal(batch.x_BCHW, training.part.pixels(batch.indices_B))
    assert training.cost["victim_queries"] == 0


def test_feature_distillation_takes_the_steps_of_its_formula(
    dataset: Dataset, context: AttackContext, victim: Classifier
) -> None:
    training = prepared("feature_distill", dataset, context, flip=True)
    plain, z = copy.deepcopy(training.surrogate), {}
    for name, model in {"student": plain, "victim": victim}.items():
        layer = model.get_submodule("backbone.layer1")
        layer.register_forward_hook(lambda _, __, output, name=name: z.update({name: output}))

    def loss(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        labels_B = victim(x_BCHW).argmax(1)
        assert torch.equal(labels_B, y_B)
        return F.cross_entropy(model(x_BCHW), labels_B) + 0.1 * (z["student"] - z["victim"]).square().mean()

    follow(training, plain, loss, torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.8, weight_decay=1e-4),
           cosine(0.01, 3))  # fmt: skip
    assert float((z["student"] - z["victim"]).detach().norm()) > 0
