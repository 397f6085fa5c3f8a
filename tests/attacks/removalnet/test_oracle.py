"""RemovalNet's bilevel mathematics against an independent float64 oracle in plain loops.

Random cases come from a seed drawn by hypothesis. float64 in is float64 throughout, so 1e-6 relative is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rnet.attacks.removalnet import bilevel
from rnet.kernels.admissible_mix import admissible_mix
from rnet.kernels.partners import partners
from tests.attacks.removalnet import oracle
from tests.attacks.removalnet.network import OnlyTail

SEEDS = st.integers(0, 2**32 - 1)
KINDS = st.sampled_from(["l2", "cosine"])
MODES = ("official", "logits", "probs")
# Shape of a batch of latents without the batch axis, and the channel axis counted with it.
SHAPES = st.sampled_from([([3], 1), ([4, 2, 2], 1), ([3, 5], -1), ([2, 3, 4], 3), ([5, 2], 1)])
few = settings(deadline=None, max_examples=20)


class TorchTail(nn.Module):
    """The oracle's tail as a module with parameters."""

    def __init__(self, tail: oracle.Tail) -> None:
        super().__init__()
        self.W1, self.b1 = nn.Parameter(tensor(tail.W1)), nn.Parameter(tensor(tail.b1))
        self.W2, self.b2 = nn.Parameter(tensor(tail.W2)), nn.Parameter(tensor(tail.b2))

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z.flatten(1) @ self.W1.T + self.b1) @ self.W2.T + self.b2


@dataclass(frozen=True)
class Case:
    """One random problem: B samples of a latent `shape`, K classes, everything as plain lists."""

    shape: list[int]
    axis: int
    tail: oracle.Tail
    z: list[list[float]]
    z1: list[list[float]]
    u: list[list[float]]
    labels: list[int]
    permutations: list[list[int]]

    def latent(self, rows: list[list[float]]) -> Tensor:
        return tensor(rows).view(len(rows), *self.shape)

    @property
    def sample_axis(self) -> int:
        """The channel axis within one sample."""
        return (self.axis if self.axis > 0 else self.axis + len(self.shape) + 1) - 1


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_case(seed: int, shape_axis: tuple[list[int], int]) -> Case:
    shape, axis = shape_axis
    rng = np.random.default_rng(seed)
    batch, classes, hidden, elements = int(rng.integers(1, 5)), int(rng.integers(2, 5)), 4, int(np.prod(shape))
    W1, W2 = rng.normal(size=(hidden, elements)).tolist(), rng.normal(size=(classes, hidden)).tolist()
    tail = oracle.Tail(W1, rng.normal(size=hidden).tolist(), W2, rng.normal(size=classes).tolist())
    z, z1 = rng.normal(size=(2, batch, elements)).tolist()
    channels = shape[axis - 1 if axis > 0 else axis]
    permutations = [rng.permutation(channels).tolist() for _ in range(batch)]
    labels = rng.integers(classes, size=batch).tolist()
    return Case(shape, axis, tail, z, z1, rng.uniform(size=(batch, elements)).tolist(), labels, permutations)


def same(found: Tensor, expected: object) -> None:
    assert found.dtype == torch.float64
    wanted = tensor(expected)
    torch.testing.assert_close(found.detach(), wanted.view(found.shape), rtol=1e-6, atol=1e-12)


# ---------------------------------------------------------------- the oracle itself


@given(SEEDS, SHAPES, KINDS)
@few
def test_the_oracles_latent_gradient_is_the_slope_of_its_objective(
    seed: int, shape: tuple[list[int], int], kind: str
) -> None:
    case = random_case(seed, shape)
    gradient = oracle.latent_gradient(case.tail, case.z1, case.z, case.labels, kind, 0.1)
    assume(oracle.distance(case.z1, case.z, kind) > 0.1)
    for sample, element in [(0, 0), (len(case.z) - 1, len(case.z[0]) - 1)]:
        ends = []
        for move in (1e-5, -1e-5):
            moved = [list(row) for row in case.z1]
            moved[sample][element] += move
            ends.append(oracle.latent_objective(case.tail, moved, case.z, case.labels, kind, 0.1))
        assert gradient[sample][element] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-7)


# ---------------------------------------------------------------- latent level


@given(SEEDS, SHAPES)
@few
def test_a_permutation_moves_channels_of_each_sample(seed: int, shape: tuple[list[int], int]) -> None:
    case = random_case(seed, shape)
    moved = bilevel.apply_permutation(case.latent(case.z), torch.tensor(case.permutations), case.axis)
    assert torch.equal(moved, case.latent(oracle.shuffle(case.z, case.shape, case.permutations, case.sample_axis)))


def test_a_permutation_is_the_same_in_channels_last_memory() -> None:
    case = random_case(5, ([4, 2, 3], 1))
    z = case.latent(case.z).to(memory_format=torch.channels_last)
    moved = bilevel.apply_permutation(z, torch.tensor(case.permutations), 1)
    assert torch.equal(moved, case.latent(oracle.shuffle(case.z, [4, 2, 3], case.permutations, 0)))


def step(
    tail: TorchTail, z1: Tensor, z: Tensor, labels: Tensor, perm_BC: Tensor | None, axis: int, **settings: object
) -> Tensor:
    """A step of the paper, which shuffles first."""
    z1 = bilevel.apply_permutation(z1, perm_BC, axis)
    share = bilevel.distance_share(z1, z, settings.get("kind", "l2"))
    return bilevel.latent_step(OnlyTail(tail), z1, z, share, labels, None, axis, **settings)[0]


@given(SEEDS, SHAPES, KINDS)
@few
def test_no_permutation_is_the_identity(seed: int, shape: tuple[list[int], int], kind: str) -> None:
    case = random_case(seed, shape)
    z, z1 = case.latent(case.z), case.latent(case.z1)
    net, labels = OnlyTail(TorchTail(case.tail)), torch.tensor(case.labels)
    identity = torch.arange(z.shape[case.axis]).expand(len(z), -1)
    share = bilevel.distance_share(z1, z, kind)
    found, same_found = (
        bilevel.latent_step(net, z1, z, share, labels, perm_BC, case.axis, kind=kind) for perm_BC in (None, identity)
    )
    assert torch.equal(found[0], same_found[0])
    torch.testing.assert_close(found[1], bilevel.distance_share(found[0], z, kind))


@given(SEEDS, SHAPES, KINDS)
@few
def test_log_distance_is_one_norm_over_the_batch_or_the_sum_of_cosine_distances(
    seed: int, shape: tuple[list[int], int], kind: str
) -> None:
    case = random_case(seed, shape)
    found = bilevel.distance(bilevel.distance_share(case.latent(case.z1), case.latent(case.z), kind), kind).log()
    assert found.ndim == 0
    torch.testing.assert_close(found, tensor(oracle.distance(case.z1, case.z, kind)).log(), rtol=1e-6, atol=1e-9)


def test_cosine_distance_of_equal_latents_stays_finite() -> None:
    z = tensor([[1.0, 2.0], [0.0, 3.0]])
    found = bilevel.distance(bilevel.distance_share(z, z, "cosine"), "cosine")
    assert found.log().item() == pytest.approx(np.log(1e-12), abs=1e-3)


@given(SEEDS, SHAPES, st.sampled_from([0.1, 2.0]))
@few
def test_the_parts_of_the_latent_gradient_are_the_oracles(
    seed: int, shape: tuple[list[int], int], weight: float
) -> None:
    case = random_case(seed, shape)
    z1, z, labels = case.latent(case.z1), case.latent(case.z), torch.tensor(case.labels)
    gradient = OnlyTail(TorchTail(case.tail)).gradient(bilevel.summed_cross_entropy, z1, labels) / len(z)
    assert gradient.shape == z.shape
    same(gradient, oracle.latent_gradient(case.tail, case.z1, case.z, case.labels, "l2", 0.0))
    away = bilevel.cosine_gradient(z1, z) / bilevel.distance(bilevel.distance_share(z1, z, "cosine"), "cosine")
    same(gradient - weight * away, oracle.latent_gradient(case.tail, case.z1, case.z, case.labels, "cosine", weight))


def test_a_latent_step_leaves_parameters_and_the_tape_alone() -> None:
    case = random_case(4, ([4, 2, 2], 1))
    tail, z1, z = TorchTail(case.tail), case.latent(case.z1), case.latent(case.z)
    tail.W1.grad = torch.ones_like(tail.W1)
    before = z1.clone()
    moved = step(tail, z1, z, torch.tensor(case.labels), None, 1)
    assert torch.equal(tail.W1.grad, torch.ones_like(tail.W1))
    assert tail.b1.grad is tail.W2.grad is tail.b2.grad is z1.grad is None
    assert not moved.requires_grad
    assert torch.equal(z1, before)


@given(SEEDS, SHAPES, KINDS)
@few
def test_a_latent_step_shuffles_first_and_then_descends_by_the_sign(
    seed: int, shape: tuple[list[int], int], kind: str
) -> None:
    case = random_case(seed, shape)
    stepped = step(
        TorchTail(case.tail),
        case.latent(case.z1),
        case.latent(case.z),
        torch.tensor(case.labels),
        torch.tensor(case.permutations),
        case.axis,
        kind=kind,
    )
    expected, gradient = oracle.latent_step(
        case.tail, case.z1, case.z, case.labels, case.shape, case.permutations, case.sample_axis, kind
    )
    decided = case.latent(gradient).abs() > 1e-12
    assert not stepped.requires_grad
    assert stepped.dtype == torch.float64
    assert torch.equal(stepped[decided], case.latent(expected)[decided])


@given(SEEDS, SHAPES, KINDS)
@few
def test_a_whole_latent_search_follows_the_oracle(seed: int, shape: tuple[list[int], int], kind: str) -> None:
    case = random_case(seed, shape)
    z, labels, perms = case.latent(case.z), torch.tensor(case.labels), torch.tensor(case.permutations)
    ours = z + torch.tan(case.latent(case.u))
    for _ in range(2):  # the start's shuffle and the first step's
        ours = bilevel.apply_permutation(ours, perms, case.axis)
    share, net = bilevel.distance_share(ours, z, kind), OnlyTail(TorchTail(case.tail))
    theirs = oracle.latent_start(case.z, case.u, case.shape, case.permutations, case.sample_axis)
    for following in (perms, perms, perms, None):
        ours, share = bilevel.latent_step(net, ours, z, share, labels, following, case.axis, kind=kind)
        theirs, gradient = oracle.latent_step(
            case.tail, theirs, case.z, case.labels, case.shape, case.permutations, case.sample_axis, kind
        )
        assume(min(abs(slope) for row in gradient for slope in row) > 1e-9)  # else one sign may differ by rounding
    same(ours, theirs)
    torch.testing.assert_close(bilevel.distance(share, kind), tensor(oracle.distance(theirs, case.z, kind)))


def test_weight_and_step_size_are_the_published_constants_by_default() -> None:
    assert (bilevel.LOG_DISTANCE_WEIGHT, bilevel.STEP_SIZE) == (0.1, 0.01)
    case = random_case(11, ([3, 5], -1))
    arguments = (TorchTail(case.tail), case.latent(case.z1), case.latent(case.z), torch.tensor(case.labels))
    moved = step(*arguments, None, -1) - arguments[1]
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.01), rtol=1e-9, atol=1e-12)


def test_a_zero_gradient_moves_nothing() -> None:
    tail = oracle.Tail([[0.0, 0.0]], [0.0], [[0.0], [0.0]], [0.0, 0.0])
    z1 = tensor([[1.0, 2.0]])
    stepped = step(TorchTail(tail), z1, z1 + 1, torch.tensor([0]), None, 1, weight=0.0)
    assert torch.equal(stepped, tensor([[1.0, 2.0]]))


# ---------------------------------------------------------------- logits level: partners


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=7))
@few
def test_the_partner_is_the_farthest_and_ties_go_to_the_lowest_index(eighths: list[list[int]]) -> None:
    p = [[value / 8 for value in row] for row in eighths]  # exact in binary: equal distances are equal bits
    found = partners(tensor(p))
    assert found.dtype == torch.int64
    assert found.tolist() == oracle.partners(p)


@given(SEEDS)
@few
def test_partners_in_a_gallery_are_found_by_distance_to_its_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, gallery = rng.dirichlet([0.5] * 4, size=3).tolist(), rng.dirichlet([0.5] * 4, size=6).tolist()
    assert partners(tensor(p), tensor(gallery)).tolist() == oracle.partners(p, gallery)


def test_ties_go_to_the_lowest_index_in_a_large_batch() -> None:
    p = [[0.875, 0.125, 0.0]] + [[0.0, 0.5, 0.5], [0.25, 0.25, 0.5]] * 40
    assert partners(tensor(p)).tolist() == oracle.partners(p)
    assert partners(tensor(p))[0] == 1


def test_samples_that_are_all_equal_choose_the_first() -> None:
    p = [[0.2, 0.3, 0.5]] * 30
    assert partners(tensor(p)).tolist() == [0] * 30
    assert partners(tensor(p[:1])).tolist() == [0]


def test_equal_probabilities_in_float32_choose_the_first() -> None:
    p_BK = torch.softmax(torch.linspace(-3, 3, 17), dim=0).expand(64, 17)
    assert partners(p_BK).tolist() == [0] * 64


# ---------------------------------------------------------------- logits level: the mix


def first_admissible(own_BK: Tensor, other_BK: Tensor, y_B: Tensor) -> Tensor:
    return admissible_mix(own_BK, other_BK, torch.arange(len(own_BK)), y_B)[1]


def weight_of(own: list[float], other: list[float], label: int) -> float:
    found = first_admissible(tensor([own]), tensor([other]), torch.tensor([label]))
    assert found.shape == (1,)
    assert found.is_floating_point()
    assert found.item() == pytest.approx(oracle.first_admissible(own, other, label), rel=1e-9)
    return found.item()


@pytest.mark.parametrize(
    ("reason", "own", "other", "label", "expected"),
    [
        ("the partner agrees, so nothing bounds b", [0.6, 0.4, 0.0], [0.7, 0.1, 0.2], 0, 0.3),
        ("the partner disagrees: b at least .57", [0.7, 0.3, 0.0], [0.2, 0.73, 0.07], 0, 0.6),
        ("the partner disagrees strongly: b at least .83", [0.55, 0.45, 0.0], [0.25, 0.75, 0.0], 0, 0.9),
        ("b at least .95 is beyond the grid", [0.51, 0.49, 0.0], [0.31, 0.69, 0.0], 0, 1.0),
        ("own argmax is wrong, the partner's is right: b at most .75", [0.45, 0.55, 0.0], [0.65, 0.35, 0.0], 0, 0.3),
        ("b at most .25 is below the grid", [0.2, 0.8, 0.0], [0.6, 0.4, 0.0], 0, 1.0),
        ("an interval with both ends: .57 to .75", [0.4, 0.5, 0.1], [0.3, 0.0, 0.7], 0, 0.6),
        ("an interval between two grid points: .62 to .67", [0.4, 0.5, 0.1], [0.2378, 0.0348, 0.7274], 0, 1.0),
        ("own and partner are both wrong", [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], 0, 1.0),
        ("at most .25 and at least .8 at once", [0.3, 0.6, 0.1], [0.1, 0.0, 0.9], 0, 1.0),
        ("a tie with a higher class keeps the label", [0.5, 0.5, 0.0], [0.5, 0.5, 0.0], 0, 0.3),
        ("a tie with a lower class loses it", [0.5, 0.5, 0.0], [0.5, 0.5, 0.0], 1, 1.0),
        ("a tie of two other classes is none of our business", [0.1, 0.3, 0.3, 0.3], [0.4, 0.2, 0.2, 0.2], 0, 0.3),
        ("the last class may be the label", [0.3, 0.1, 0.6], [0.6, 0.2, 0.2], 2, 0.6),
    ],
)
def test_the_first_admissible_weight(
    reason: str, own: list[float], other: list[float], label: int, expected: float
) -> None:
    assert weight_of(own, other, label) == pytest.approx(expected, rel=1e-9), reason


def test_an_own_partner_changes_nothing_and_is_admitted_or_not_as_a_whole() -> None:
    assert weight_of([0.2, 0.8], [0.2, 0.8], 1) == pytest.approx(0.3)
    assert weight_of([0.2, 0.8], [0.2, 0.8], 0) == 1.0


def test_seven_weights_are_tried_and_no_eighth() -> None:
    # These rows ask for b >= threshold, and the grid runs from .3 to .9.
    for threshold, expected in [(0.01, 0.3), (0.2999, 0.3), (0.31, 0.4), (0.79, 0.8), (0.8999, 0.9), (0.9001, 1.0)]:
        own, other = [1 - threshold / 2, threshold / 2], [0.5 - threshold / 2, 0.5 + threshold / 2]
        assert weight_of(own, other, 0) == pytest.approx(expected, rel=1e-9)


@given(SEEDS, st.booleans())
@few
def test_first_admissible_agrees_with_the_oracle_and_with_the_inequalities(seed: int, twins: bool) -> None:
    rng = np.random.default_rng(seed)
    batch, classes = 16, int(rng.integers(2, 6))
    own, other = rng.dirichlet([0.7] * classes, size=(2, batch))
    if twins:  # two classes with the same scores everywhere: exact ties for every b
        own[:, -1], other[:, -1] = own[:, 0], other[:, 0]
    labels = rng.integers(classes, size=batch)
    found = first_admissible(tensor(own.tolist()), tensor(other.tolist()), torch.tensor(labels.tolist()))
    for i in range(batch):
        case = own[i].tolist(), other[i].tolist(), int(labels[i])
        assert found[i].item() == pytest.approx(oracle.first_admissible(*case), rel=1e-9)
        if not twins:
            low, high = oracle.admissible_interval(*case)
            assert found[i].item() == pytest.approx(next((b for b in oracle.WEIGHTS if low <= b <= high), 1.0))


# ---------------------------------------------------------------- logits level: the target


@pytest.mark.parametrize("mode", MODES)
@given(SEEDS, st.sampled_from([1.0, 4.0, 20.0]))
@few
def test_the_target_of_each_mode_is_the_oracles(mode: str, seed: int, T: float) -> None:
    rng = np.random.default_rng(seed)
    logits = (3 * rng.normal(size=(int(rng.integers(1, 7)), int(rng.integers(2, 6))))).tolist()
    labels = rng.integers(len(logits[0]), size=len(logits)).tolist()
    q = bilevel.logits_target(tensor(logits), torch.tensor(labels), T, mode)
    same(q, oracle.logits_target(logits, labels, T, mode))


@pytest.mark.parametrize("mode", MODES)
def test_a_target_without_admissible_mix_is_the_sample_itself(mode: str) -> None:
    logits, labels = [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]], [2, 2]
    p = [oracle.softmax(row) for row in logits]
    alone = {
        "official": [oracle.softmax([value / 5 for value in row]) for row in p],
        "logits": [oracle.softmax([value / 5 for value in row]) for row in logits],
        "probs": p,
    }
    same(bilevel.logits_target(tensor(logits), torch.tensor(labels), 5.0, mode), alone[mode])


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_of_one_is_its_own_partner(mode: str) -> None:
    logits = [[1.0, 2.0, 0.5]]
    expected = {
        "official": oracle.softmax([v / 2 for v in oracle.softmax(logits[0])]),
        "probs": oracle.softmax(logits[0]),
    }
    expected["logits"] = oracle.softmax([v / 2 for v in logits[0]])
    same(bilevel.logits_target(tensor(logits), torch.tensor([1]), 2.0, mode), [expected[mode]])


def test_the_logits_mode_asks_for_the_argmax_of_mixed_logits_not_of_mixed_probabilities() -> None:
    logits, labels = [[2.0, 0.0, -8.0], [-6.0, 3.0, 3.0]], [0, 1]
    own, other = logits
    by_logits = oracle.first_admissible(own, other, 0)
    by_probabilities = oracle.first_admissible(oracle.softmax(own), oracle.softmax(other), 0)
    assert by_logits != by_probabilities  # the case tells the two apart
    same(
        bilevel.logits_target(tensor(logits), torch.tensor(labels), 4.0, "logits"),
        oracle.logits_target(logits, labels, 4.0, "logits"),
    )


def test_the_partner_is_chosen_by_probabilities_in_the_logits_mode_too() -> None:
    logits = [
        [2.0, 0.0, 0.0],
        [50.0, 20.0, 20.0],
        [0.0, 3.0, 0.0],
    ]  # row 1 is farthest in logits, row 2 in probabilities
    labels = [0, 0, 1]
    assert oracle.partners([oracle.softmax(row) for row in logits])[0] == 2
    assert oracle.partners(logits)[0] == 1
    same(
        bilevel.logits_target(tensor(logits), torch.tensor(labels), 4.0, "logits"),
        oracle.logits_target(logits, labels, 4.0, "logits"),
    )


def test_the_official_target_is_nearly_flat_at_temperature_twenty() -> None:
    logits = 4 * torch.randn(40, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = bilevel.logits_target(logits, logits.argmax(dim=1), 20.0, "official")
    lowest, highest = 1 / (9 + np.exp(1 / 20)), np.exp(1 / 20) / (9 + np.exp(1 / 20))  # of a one-hot m, K = 10
    assert lowest <= q.min() < q.max() <= highest
    assert (round(lowest, 4), round(highest, 4)) == (0.0995, 0.1046)


@pytest.mark.parametrize("mode", MODES)
def test_a_target_is_a_constant(mode: str) -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    q = bilevel.logits_target(logits.detach(), torch.tensor([0, 1, 2, 0, 1]), 4.0, mode)
    assert not q.requires_grad
    same(q.sum(dim=1), [1.0] * 5)


# ---------------------------------------------------------------- upper level

WEIGHTS = st.fixed_dictionaries(
    {
        "T": st.sampled_from([1.0, 2.5, 20.0]),
        "alpha": st.sampled_from([0.0, 0.2, 1.5]),
        "beta": st.sampled_from([0.0, 2.0]),
        "gamma": st.sampled_from([0.0, 0.6]),
    }
)


@given(SEEDS, SHAPES, WEIGHTS, st.booleans())
@few
def test_the_upper_loss_its_parts_and_its_gradients_are_the_oracles(
    seed: int, shape: tuple[list[int], int], weights: dict[str, float], one_hot: bool
) -> None:
    case = random_case(seed, shape)
    rng = np.random.default_rng(seed)
    classes = len(case.tail.b2)
    logits = (3 * rng.normal(size=(len(case.z), classes))).tolist()
    # A one-hot target has entries that are exactly 0; 0 log 0 counts as 0.
    q = (np.eye(classes)[case.labels] if one_hot else rng.dirichlet([1.0] * classes, size=len(case.z))).tolist()
    logits_BK, z = tensor(logits).requires_grad_(), case.latent(case.z).requires_grad_()
    total, parts = bilevel.upper_loss(
        logits_BK, z, case.latent(case.z1), tensor(q), torch.tensor(case.labels), **weights
    )
    expected = oracle.upper_loss(logits, case.z, case.z1, q, case.labels, weights)
    same(total, expected["total"])
    assert set(parts) == {"kl", "mse", "ce"}
    for name, value in parts.items():
        same(value, expected[name])
    total.backward()
    for found, name in ((logits_BK.grad, "dlogits"), (z.grad, "dz")):
        if found is not None:
            same(found, expected[name])
        else:
            assert not np.any(expected[name]), f"{name} is missing"


def test_the_upper_loss_of_a_perfect_student_is_its_cross_entropy() -> None:
    logits, z = tensor([[0.0, 1.0], [2.0, -1.0]]), tensor([[1.0], [2.0]])
    q = torch.softmax(logits / 3, dim=1)
    total, parts = bilevel.upper_loss(logits, z, z, q, torch.tensor([0, 0]), T=3.0, alpha=7.0, beta=5.0, gamma=1.0)
    cross_entropy = (np.log(1 + np.e) + np.log(1 + np.exp(-3))) / 2
    assert parts["kl"].item() == pytest.approx(0.0, abs=1e-12)
    assert parts["mse"].item() == 0.0
    assert total.item() == pytest.approx(cross_entropy, rel=1e-12)
