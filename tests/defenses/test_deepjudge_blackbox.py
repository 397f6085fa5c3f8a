"""DeepJudge's seeds, its adversarial cases, RobD and JSD."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn

from rnet.defenses.deepjudge.adversarial import carlini_wagner, fgsm, normalised_scalar_box, pgd
from rnet.defenses.deepjudge.black_box import jensen_shannon, most_certain, part_logits, robustness_distance
from rnet.rewrites.modes import frozen_eval
from tests.defenses.tiny import TinyCNN, tiny_dataset, tiny_model


@pytest.fixture(scope="module")
def victim() -> TinyCNN:
    return tiny_model(seed=2, width=4, dtype=torch.float64)


@pytest.fixture(scope="module")
def x_NCHW() -> Tensor:
    return tiny_dataset(seed=4, test=5).test.pixels().double()


@pytest.fixture(scope="module")
def labels_N(victim: TinyCNN, x_NCHW: Tensor) -> Tensor:
    return victim(x_NCHW).argmax(dim=1)


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / math.fsum(powers) for power in powers]


# --- seeds


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 15))
def test_seeds_are_the_most_certain_of_the_right_answers(seed: int, images: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits_NK = 3 * torch.randn(images, 3, generator=generator)
    labels_N = torch.randint(0, 3, (images,), generator=generator)
    certainty = [math.fsum(p * p for p in softmax(row)) for row in logits_NK.tolist()]
    right = [i for i in range(images) if int(logits_NK[i].argmax()) == int(labels_N[i])]
    expected = sorted(right, key=lambda i: -certainty[i])[:count]
    assert most_certain(logits_NK, labels_N, count).tolist() == expected


def test_certain_images_do_not_tie_because_of_float32() -> None:
    logits_NK = torch.tensor([[20.0, 0.0], [25.0, 0.0]])  # both probabilities round to 1 in float32
    assert most_certain(logits_NK, torch.zeros(2, dtype=torch.int64), 1).tolist() == [1]


def test_seeds_do_not_depend_on_a_shift_of_the_logits_but_their_ranking_by_logits_does() -> None:
    logits_NK = torch.tensor([[9.0, 0.0, 0.0], [4.0, 3.9, -30.0]])  # certain; undecided but with a large norm
    labels_N = torch.zeros(2, dtype=torch.int64)
    assert most_certain(logits_NK, labels_N, 1).tolist() == [0]
    assert most_certain(logits_NK - 50, labels_N, 1).tolist() == [0]
    assert most_certain(logits_NK, labels_N, 1, rank="logits").tolist() == [1]


def test_logits_of_a_part_do_not_depend_on_the_batch_size() -> None:
    model, part = tiny_model(seed=2), tiny_dataset(seed=4, test=7).test
    whole = part_logits(model, part, 100)
    torch.testing.assert_close(part_logits(model, part, 3), whole, rtol=0, atol=1e-5)


# --- adversarial cases


def loop_pgd(
    victim: nn.Module, x_CHW: Tensor, label: int, noise_CHW: Tensor, step: float, steps: int, radius: float | None
) -> Tensor:
    """One image, moved as the authors' program moves it."""
    found = (x_CHW + noise_CHW).clamp(0, 1)
    for _ in range(steps):
        found = found.detach().requires_grad_(True)
        loss = -torch.log_softmax(victim(found[None])[0], dim=0)[label]
        (gradient,) = torch.autograd.grad(loss, found)
        found = found.detach() + step * gradient.sign()
        if radius is not None:
            found = torch.maximum(torch.minimum(found, x_CHW + radius), x_CHW - radius)
        found = found.clamp(0, 1)
    return found


@pytest.mark.parametrize("radius", [None, 0.03])
def test_pgd_moves_every_image_as_a_loop_would(
    victim: TinyCNN, x_NCHW: Tensor, labels_N: Tensor, radius: float | None
) -> None:
    noise_NCHW = 0.03 * (2 * torch.rand(x_NCHW.shape, generator=torch.Generator().manual_seed(1)).double() - 1)
    with frozen_eval(victim):
        found = pgd(victim, x_NCHW, labels_N, noise_NCHW, step_size=0.02, num_steps=4, radius=radius)
        for n in range(len(x_NCHW)):
            expected = loop_pgd(victim, x_NCHW[n], int(labels_N[n]), noise_NCHW[n], 0.02, 4, radius)
            torch.testing.assert_close(found[n], expected, rtol=0, atol=1e-12)


def test_projection_keeps_cases_within_the_radius_and_the_original_does_not(
    victim: TinyCNN, x_NCHW: Tensor, labels_N: Tensor
) -> None:
    farthest = {}
    for radius in (None, 0.03):
        with frozen_eval(victim):
            found = pgd(victim, x_NCHW, labels_N, torch.zeros_like(x_NCHW), step_size=0.03, num_steps=10, radius=radius)
        farthest[radius] = float((found - x_NCHW).abs().max())
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
    assert farthest[0.03] == pytest.approx(0.03)
    assert 0.06 < farthest[None] <= 0.3 + 1e-12


def test_the_scalar_box_is_one_scalar_for_all_normalised_channels() -> None:
    dataset = tiny_dataset()
    low_C11, high_C11 = normalised_scalar_box(dataset, torch.device("cpu"))
    normalised = [
        (value - mean) / std for value in (0, 1) for mean, std in zip(dataset.mean_C, dataset.std_C, strict=True)
    ]
    for c, (mean, std) in enumerate(zip(dataset.mean_C, dataset.std_C, strict=True)):
        assert float(low_C11[c]) == pytest.approx(mean + std * min(normalised), abs=1e-6)
        assert float(high_C11[c]) == pytest.approx(mean + std * max(normalised), abs=1e-6)
    assert float(low_C11.min()) < 0
    assert float(high_C11.max()) > 1


def test_in_the_scalar_box_cases_leave_pixel_space(victim: TinyCNN, x_NCHW: Tensor, labels_N: Tensor) -> None:
    low_C11, high_C11 = (side.double() for side in normalised_scalar_box(tiny_dataset(), torch.device("cpu")))
    box = (low_C11, high_C11)
    middle_NCHW = 0.3 + 0.4 * x_NCHW
    zero = torch.zeros_like(x_NCHW)
    with frozen_eval(victim):
        found = pgd(victim, x_NCHW, labels_N, zero, step_size=0.1, num_steps=10, radius=None, box=box)
        once = pgd(victim, middle_NCHW, labels_N, zero, step_size=0.1, num_steps=1, radius=None, box=box)
    assert float(found.min()) < -0.01 or float(found.max()) > 1.01
    assert bool(((found >= low_C11 - 1e-9) & (found <= high_C11 + 1e-9)).all())
    steps = (once - middle_NCHW).abs()
    torch.testing.assert_close(steps, torch.full_like(steps, 0.1))  # a step is as long as in [0, 1]


def test_fgsm_is_one_step_along_the_sign_of_the_gradient_at_its_noisy_start(
    victim: TinyCNN, x_NCHW: Tensor, labels_N: Tensor
) -> None:
    noise_NCHW = 0.3 * (2 * torch.rand(x_NCHW.shape, generator=torch.Generator().manual_seed(1)).double() - 1)
    box = tuple(side.double() for side in normalised_scalar_box(tiny_dataset(), torch.device("cpu")))
    with frozen_eval(victim):
        found = fgsm(victim, x_NCHW, labels_N, noise_NCHW, epsilon=0.3)
        wide = fgsm(victim, x_NCHW, labels_N, noise_NCHW, epsilon=0.3, box=box)  # type: ignore[arg-type]
        for n in range(len(x_NCHW)):
            expected = loop_pgd(victim, x_NCHW[n], int(labels_N[n]), noise_NCHW[n], 0.3, 1, None)
            torch.testing.assert_close(found[n], expected, rtol=0, atol=1e-12)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert bool(((wide >= box[0] - 1e-9) & (wide <= box[1] + 1e-9)).all())
    assert float(wide.min()) < 0


def test_steps_of_channels_may_differ(victim: TinyCNN, x_NCHW: Tensor, labels_N: Tensor) -> None:
    step_C11 = torch.tensor([0.01, 0.02, 0.03]).double().view(3, 1, 1)
    zero, middle_NCHW = torch.zeros_like(x_NCHW), 0.3 + 0.4 * x_NCHW
    with frozen_eval(victim):
        found = pgd(victim, middle_NCHW, labels_N, zero, step_size=step_C11, num_steps=3, radius=2 * step_C11)
    farthest_C = (found - middle_NCHW).abs().amax(dim=(0, 2, 3))
    torch.testing.assert_close(farthest_C, 2 * step_C11.flatten())


def loop_carlini_wagner(
    victim: nn.Module, x_CHW: Tensor, label: int, *, confidence: float, rate: float, steps: int, searches: int
) -> Tensor:
    """One image, as the authors' program searches: keras' Adam in plain arithmetic, one for all searches."""
    start = torch.atanh((2 * x_CHW - 1) * 0.999999)
    mean, square, age = torch.zeros_like(start), torch.zeros_like(start), 0
    best, best_distance, low, high, c = x_CHW, math.inf, 0.0, 1e10, 0.01
    for _ in range(searches):
        w, found, last = start.clone(), False, math.inf
        for step in range(steps):
            leaf = w.detach().requires_grad_(True)
            image = (torch.tanh(leaf) + 1) / 2
            logits = victim(image[None])[0]
            lead = logits[label] - max(logits[k] for k in range(len(logits)) if k != label)
            distance = (image - (torch.tanh(start) + 1) / 2).square().sum()
            loss = distance + c * torch.relu(lead + confidence)
            (gradient,) = torch.autograd.grad(loss, leaf)
            age += 1
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            rate_now = rate * math.sqrt(1 - 0.999**age) / (1 - 0.9**age)
            w = w - rate_now * mean / (square.sqrt() + 1e-7)
            if step % max(steps // 10, 1) == 0:
                if loss.item() > last * 0.9999:
                    break
                last = loss.item()
            if lead.item() < -confidence:
                found = True
                if distance.item() < best_distance:
                    best, best_distance = image.detach(), distance.item()
        if found:
            high = min(high, c)
        else:
            low = max(low, c)
        c = (low + high) / 2 if high < 1e10 else c * 10
    return best


def test_carlini_wagner_searches_for_every_image_as_a_loop_would(
    victim: TinyCNN, x_NCHW: Tensor, labels_N: Tensor
) -> None:
    settings = {"confidence": 0.3, "searches": 4}
    with frozen_eval(victim):
        found = carlini_wagner(victim, x_NCHW, labels_N, learning_rate=0.05, num_steps=40, **settings)  # type: ignore[arg-type]
        patient = carlini_wagner(
            victim, x_NCHW, labels_N, learning_rate=0.05, num_steps=40, abort_early=False, **settings
        )  # type: ignore[arg-type]
        for n in range(len(x_NCHW)):
            expected = loop_carlini_wagner(victim, x_NCHW[n], int(labels_N[n]), rate=0.05, steps=40, **settings)  # type: ignore[arg-type]
            torch.testing.assert_close(found[n], expected, rtol=0, atol=2e-6)  # logits are float32 there
    assert not torch.equal(found, patient), "no search was aborted"
    assert not torch.equal(found, x_NCHW)


class Linear(nn.Module):
    """Two classes split by a plane: the smallest change of label is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_E = nn.Parameter(torch.tensor([3.0, -1.0, 2.0, 0.5]))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        score_B = x_BCHW.flatten(1) @ self.weight_E - 2.2
        return torch.stack([score_B / 2, -score_B / 2], dim=1)


def test_carlini_wagner_finds_the_nearest_point_beyond_the_margin() -> None:
    model = Linear()
    x_NCHW = torch.tensor([[0.6, 0.4, 0.6, 0.5], [0.4, 0.6, 0.5, 0.4]]).view(2, 1, 2, 2)
    labels_N = model(x_NCHW).argmax(dim=1)
    with frozen_eval(model):
        found = carlini_wagner(
            model, x_NCHW, labels_N, confidence=0.2, learning_rate=0.01, num_steps=80, searches=6, abort_early=False
        )
        logits_NK = model(found)
    lead_N = logits_NK[torch.arange(2), labels_N] - logits_NK[torch.arange(2), 1 - labels_N]
    assert bool((lead_N < -0.2).all())
    before_NK = model(x_NCHW)
    nearest_N = ((before_NK[:, 0] - before_NK[:, 1]).abs() + 0.2) / model.weight_E.norm()
    torch.testing.assert_close((found - x_NCHW).flatten(1).norm(dim=1), nearest_N.detach(), rtol=0.01, atol=0)


def test_carlini_wagner_leaves_an_image_alone_where_it_finds_nothing() -> None:
    model = Linear()
    x_1CHW = torch.tensor([0.9, 0.1, 0.9, 0.5]).view(1, 1, 2, 2)
    with frozen_eval(model):
        found = carlini_wagner(
            model, x_1CHW, torch.tensor([0]), confidence=100.0, learning_rate=0.01, num_steps=5, searches=2
        )
    assert torch.equal(found, x_1CHW)


# --- RobD and JSD


def test_robd_compares_accuracies_on_the_true_labels() -> None:
    labels_N = torch.tensor([0, 1, 2, 0])
    victim_NK = torch.eye(3)[torch.tensor([1, 2, 2, 1])]  # right once
    suspect_NK = torch.eye(3)[torch.tensor([0, 1, 2, 2])]  # right three times
    assert robustness_distance(labels_N, victim_NK, suspect_NK) == 0.5
    assert robustness_distance(labels_N, suspect_NK, victim_NK) == 0.5


def test_robd_of_a_model_that_is_fooled_differently_is_zero() -> None:
    labels_N, victim_label_N, other_N = torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([2, 2])
    victim_NK, suspect_NK = torch.eye(3)[victim_label_N], torch.eye(3)[other_N]
    assert robustness_distance(labels_N, victim_NK, suspect_NK) == 0.0  # both are fooled on everything
    assert robustness_distance(victim_label_N, victim_NK, suspect_NK) == 1.0  # the port's: 1 - matching rate


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(2, 6), st.floats(0.1, 40))
def test_jsd_equals_scipys_in_nats(seed: int, cases: int, classes: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    victim_NK, suspect_NK = (scale * torch.randn(cases, classes, generator=generator) for _ in range(2))
    rows = zip(victim_NK.tolist(), suspect_NK.tolist(), strict=True)
    roots = [jensenshannon(softmax(v), softmax(s), base=math.e) for v, s in rows]
    expected = np.mean(np.nan_to_num(roots) ** 2)  # scipy takes the root of a negative zero for equal distributions
    assert jensen_shannon(victim_NK, suspect_NK) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert jensen_shannon(victim_NK, victim_NK.clone()) == 0.0


def test_jsd_of_opposite_certainties_is_ln_2() -> None:
    assert jensen_shannon(torch.tensor([[900.0, 0.0]]), torch.tensor([[0.0, 900.0]])) == pytest.approx(math.log(2))
