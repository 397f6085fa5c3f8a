"""What attacks cost: counts written out by hand for a network whose operations are easy to count."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnet.attacks.base import AttackContext
from rnet.attacks.cost import Passes, cost, training_passes
from rnet.attacks.registry import ATTACKS
from rnet.config.run import load_config
from rnet.data.images import Dataset
from rnet.models.classifier import Classifier
from rnet.training.flops import count_flops
from tests.attacks.table import CONTROLS, TABLE, TRAINED


class Counted(nn.Module):
    """8-pixel images of one channel: 2 * 9 * 64 * 4 FLOPs of the first convolution, 2 * 36 * 64 * 4 of the second, and
    2 * 4 * 10 of the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(), nn.ReLU())
        self.fc = nn.Linear(4, 10)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x_BCHW)).mean((2, 3)))


FIRST, SECOND, LINEAR = 2 * 9 * 64 * 4, 2 * 36 * 64 * 4, 2 * 4 * 10
FORWARD = FIRST + SECOND + LINEAR
BACKWARD = FIRST + 2 * SECOND + 2 * LINEAR  # the images need no gradient
HEAD, TAIL = FIRST, SECOND + LINEAR
STEP = FORWARD + BACKWARD
ONE = STEP * 3 * 16
SELECTION = STEP * 20  # of 21 images in rounds of 5 the last is alone, and not learnt from
COSTS: dict[str, tuple[int, int, int, int, int, int, int]] = {
    "identity": (0, 0, 0, 0, 0, 0, 0),
    "finetune": (48, 0, 48, 3, 48, 48, ONE),
    "finetune_labelled": (0, 200, 0, 3, 48, 48, ONE),
    "retrain": (0, 200, 0, 3, 48, 48, ONE),
    "retrain_layers": (0, 200, 0, 3, 48, 48, (FORWARD + LINEAR) * 48),
    "retrain_unlabelled": (48, 0, 48, 3, 48, 48, ONE),
    "prune": (0, 200, 0, 3, 48, 48, ONE),
    "finetune_cropped": (48, 0, 48, 3, 48, 48, ONE),
    "adversarial_training": (0, 200, 0, 3, 11 * 48, 11 * 48, ONE + 10 * 48 * 2 * FORWARD),
    "adversarial_training_unlabelled": (48, 0, 48, 3, 3 * 48, 3 * 48, ONE + 2 * 48 * 2 * FORWARD),
    "distill_cropped": (48, 0, 48, 3, 48, 48, ONE),
    "distill": (48, 0, 48, 3, 48, 48, ONE),
    "feature_distill": (48, 0, 48, 3, 96, 48, ONE + HEAD * 48),
    "knockoff": (40, 0, 40, 5, 80, 80, STEP * 80),
    "knockoff_labels": (20, 0, 20, 2, 32, 32, STEP * 32),
    "knockoff_adaptive": (21, 0, 21, 3 + 4, 48 + 20, 48 + 20, STEP * 48 + SELECTION),
    "removalnet": (48, 0, 48, 3, 5 * 48, 4 * 48, ONE + 48 * (FORWARD + 3 * 2 * TAIL)),
    "removalnet_victim": (48, 0, 48, 3, 6 * 48, 4 * 48, ONE + 48 * (FORWARD + 3 * 2 * TAIL + HEAD)),
    "removalnet_latent": (48, 0, 48, 3, 5 * 48, 4 * 48, ONE + 48 * (HEAD + 3 * 2 * TAIL)),
    "removalnet_logits": (48, 0, 48, 3, 2 * 48, 48, ONE + 48 * FORWARD),
    "removalnet_ce": (48, 0, 48, 3, 48, 48, ONE),
    **dict.fromkeys(CONTROLS, (0, 0, 0, 0, 0, 0, 0)),
    "independent": (0, 200, 0, 4, 200, 200, STEP * 200),
}
"""Images of the attacker, of the victim, questions, steps, passes forwards and backwards, FLOPs. A gradient of features
costs what the forward pass does."""

SHUFFLED = {
    "removalnet": {"channels": 4, "shuffled_channels": 2},
    "removalnet_victim": {"channels": 4, "shuffled_channels": 0},
    "removalnet_latent": {"channels": 4, "shuffled_channels": 0},
}
"""What is also said of attacks with a latent level."""


@pytest.fixture
def counted(context: AttackContext, dataset: Dataset) -> AttackContext:
    torch.manual_seed(0)
    model = Classifier(Counted(), dataset.mean_C, dataset.std_C).eval().requires_grad_(False)
    return replace(
        context, victim_forward=model, copy_of_victim=lambda: copy.deepcopy(model),
        build=lambda seed: copy.deepcopy(model).requires_grad_(True),
    )  # fmt: skip


@pytest.mark.parametrize("case", COSTS)
def test_costs_are_those_counted_by_hand(case: str, counted: AttackContext, dataset: Dataset) -> None:
    found = ATTACKS.build(load_config(TABLE[case]).attack).run(dataset, counted).cost
    keys = ("substitute_samples", "training_samples", "victim_queries", "iterations", "forward_passes",
            "backward_passes", "flops")  # fmt: skip
    assert found == dict(zip(keys, COSTS[case], strict=True)) | SHUFFLED.get(case, {})


def test_mirrored_images_are_questions_where_images_are_mirrored(counted: AttackContext, dataset: Dataset) -> None:
    mirrored = replace(dataset, flip=True)
    asked = {
        case: ATTACKS.build(load_config(TABLE[case]).attack).prepare(mirrored, counted).cost["victim_queries"]
        for case in TRAINED
    }
    labelled = ("finetune_labelled", "finetune_labelled_half", "retrain", "retrain_layers", "prune")
    expected = {case: 0 if case in (*labelled, "adversarial_training") else 96 for case in TRAINED}
    every_batch = {"finetune_cropped": 48, "distill_cropped": 48}
    assert asked == expected | every_batch | {"knockoff": 40, "knockoff_labels": 20, "knockoff_adaptive": 21}


def test_counting_leaves_no_trace() -> None:
    model = Counted().train()
    before = copy.deepcopy(model.state_dict())
    model.fc.bias.requires_grad_(False)
    x_1CHW = torch.rand(1, 1, 8, 8)
    state = torch.random.get_rng_state()
    training_passes(model, x_1CHW, [model.fc.weight])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad == (p is not model.fc.bias) for p in model.parameters())


def test_attention_is_counted_as_its_matrix_products() -> None:
    q, k, v = (torch.randn(2, 3, 5, 7) for _ in range(3))  # batch, heads, tokens, width
    products = 2 * (2 * 3 * 5 * 5 * 7)  # q k and a v
    assert count_flops(lambda: F.scaled_dot_product_attention(q, k, v)) == 2 * products


def test_passes_add_up() -> None:
    one = Passes(forward=1, backward=2, flops=3)
    assert one + one.times(2) == Passes(forward=3, backward=6, flops=9)
    assert set(cost().values()) == {0}
