"""IPGuard: the objective, the search, the scores, and each choice in which published programs differ."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rnet import make_defense
from rnet.bench.sequential_ipguard import sequential_ipguard
from rnet.defenses.base import Fingerprint
from rnet.defenses.ipguard import defense as ipguard
from rnet.defenses.ipguard.config import IPGuardConfig
from rnet.defenses.ipguard.defense import IPGuard, matching_rate, objective
from rnet.errors import UserError
from tests.defenses.tiny import digits_dataset, fitted, tiny_dataset, tiny_model, unchanged

DATASET = tiny_dataset()
VICTIM = tiny_model(0)
NUM = 16


def guard(**changes: object) -> IPGuard:
    return IPGuard(IPGuardConfig(**{"num_queries": NUM, "steps": 200, **changes}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fingerprint() -> Fingerprint:
    return guard().extract(VICTIM, DATASET, 7)


def loop_objective(logits: list[float], i: int, j: int, k: float) -> float:
    first = max(logits[i] - logits[j] + k, 0.0)
    others = [value - logits[i] for t, value in enumerate(logits) if t != i and t != j]
    return first + max([0.0, *others])


def test_the_matching_rate_is_the_share_of_repeated_labels(fingerprint: Fingerprint) -> None:
    suspect = tiny_model(1)
    same = 0
    for query, label in zip(fingerprint.tensors["queries_NCHW"], fingerprint.tensors["labels_N"], strict=True):
        logits = suspect(query[None])[0].tolist()
        same += logits.index(max(logits)) == int(label)
    assert 0 < same < NUM
    assert guard().verify(fingerprint, suspect) == {"matching_rate": same / NUM}


def test_the_order_of_the_queries_does_not_matter(fingerprint: Fingerprint) -> None:
    order = torch.randperm(NUM, generator=torch.Generator().manual_seed(0))
    shuffled = Fingerprint(
        tensors={name: t[order] for name, t in fingerprint.tensors.items()}, metadata=fingerprint.metadata
    )
    suspect = tiny_model(1)
    assert guard().verify(shuffled, suspect) == guard().verify(fingerprint, suspect)


def test_twenty_nine_matches_of_a_hundred_reach_the_threshold_of_twenty_nine_hundredths() -> None:
    labels_N = torch.zeros(100, dtype=torch.int64)
    logits_NK = torch.tensor([[1.0, 0.0]] * 29 + [[0.0, 1.0]] * 71)
    assert matching_rate(labels_N, logits_NK) == 0.29


@settings(deadline=None, max_examples=60)
@given(classes=st.integers(2, 6), seed=st.integers(0, 10**6), k=st.sampled_from([0.0, 0.5, 5.0, 10.0]), data=st.data())
def test_the_objective_equals_its_formula_term_by_term(classes: int, seed: int, k: float, data: st.DataObject) -> None:
    logits_NK = torch.randn(5, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 4
    i = data.draw(st.lists(st.integers(0, classes - 1), min_size=5, max_size=5))
    j = [(a + data.draw(st.integers(1, classes - 1))) % classes for a in i]
    loss_N = objective(logits_NK, torch.tensor(i), torch.tensor(j), k)
    for n in range(5):
        assert float(loss_N[n]) == pytest.approx(loop_objective(logits_NK[n].tolist(), i[n], j[n], k), abs=1e-12)


def test_two_classes_have_no_third_term_and_finite_gradients() -> None:
    logits_NK = torch.tensor([[3.0, 1.0], [1.0, 30.0]], requires_grad=True)
    loss_N = objective(logits_NK, torch.tensor([0, 0]), torch.tensor([1, 1]), 10.0)
    assert loss_N.tolist() == [12.0, 0.0]
    loss_N.sum().backward()
    assert logits_NK.grad is not None
    assert logits_NK.grad.tolist() == [[1.0, -1.0], [0.0, 0.0]]


def test_a_two_class_victim_is_fingerprinted() -> None:
    victim = tiny_model(0, num_classes=2)
    fingerprint = guard(target="random").extract(victim, DATASET, 0)
    assert fingerprint.metadata["converged_share"] == 1.0
    assert guard().verify(fingerprint, victim)["matching_rate"] == 1.0


@pytest.mark.parametrize("target", ["least_likely", "random"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_batched_search_equals_the_sequential_one(target: str, seed: int) -> None:
    defense, victim = guard(target=target, num_queries=8), tiny_model(seed)
    x_NCHW, i_N, j_N = defense.starting_points(victim, DATASET, seed)
    expected_NCHW = sequential_ipguard(victim, x_NCHW, i_N, j_N, steps=200)
    found_NCHW = defense.extract(victim, DATASET, seed).tensors["queries_NCHW"]
    assert (found_NCHW - x_NCHW).abs().amax() > 0.05
    torch.testing.assert_close(found_NCHW, expected_NCHW, atol=1e-5, rtol=0)


def test_the_chunks_of_the_search_do_not_change_the_queries(
    fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipguard, "samples_per_chunk", lambda *_: 5)
    chunked = guard().extract(VICTIM, DATASET, 7)
    torch.testing.assert_close(chunked.tensors["queries_NCHW"], fingerprint.tensors["queries_NCHW"], atol=1e-5, rtol=0)
    assert chunked.metadata == fingerprint.metadata


def test_the_memory_limit_decides_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Watched(nn.Module):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            sizes.append(len(x_BCHW))
            return VICTIM(x_BCHW)

    monkeypatch.setattr(ipguard, "samples_per_chunk", lambda model, x_NCHW, memory_mb: memory_mb)
    guard(memory_mb=6, steps=1).extract(Watched(), DATASET, 7)
    assert sizes == [NUM, 6, 6, 4, NUM]  # first and last: the victim's labels before and after


def test_a_converged_query_is_frozen_while_the_others_go_on() -> None:
    short, long = (guard(steps=steps).extract(VICTIM, DATASET, 7) for steps in (17, 200))
    early_N = short.tensors["converged_N"]
    assert 0 < int(early_N.sum()) < NUM
    assert torch.equal(short.tensors["queries_NCHW"][early_N], long.tensors["queries_NCHW"][early_N])
    assert not torch.equal(short.tensors["queries_NCHW"][~early_N], long.tensors["queries_NCHW"][~early_N])


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_how_often_convergence_is_looked_at_does_not_change_the_result(
    every: int, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipguard, "CHECK_EVERY_ON_CPU", every)
    again = guard().extract(VICTIM, DATASET, 7)
    torch.testing.assert_close(again.tensors["queries_NCHW"], fingerprint.tensors["queries_NCHW"], atol=1e-5, rtol=0)
    assert again.metadata == fingerprint.metadata


def test_the_search_stops_early_once_every_query_has_converged() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, x_BCHW: Tensor) -> Tensor:
            Counting.calls += 1
            return VICTIM(x_BCHW)

    found = guard(steps=1000).extract(Counting(), DATASET, 7)
    assert found.metadata["steps_run"] < 100
    assert Counting.calls < 150


def test_unconverged_queries_are_kept_flagged_and_labelled_by_the_victim() -> None:
    found = guard(steps=12).extract(VICTIM, DATASET, 7)
    _, i_N, j_N = guard().starting_points(VICTIM, DATASET, 7)
    logits_NK = VICTIM(found.tensors["queries_NCHW"]).detach().double()
    assert len(logits_NK) == NUM
    assert found.metadata["steps_run"] == 12
    assert 0 < found.metadata["converged_share"] < 1
    for n in range(NUM):
        row = logits_NK[n].tolist()
        assert int(found.tensors["labels_N"][n]) == row.index(max(row))
        done = loop_objective(row, int(i_N[n]), int(j_N[n]), 10.0) <= 1e-5
        assert bool(found.tensors["converged_N"][n]) == done
    assert found.metadata["converged_share"] == int(found.tensors["converged_N"].sum()) / NUM


def test_a_query_that_got_nowhere_keeps_the_label_of_its_own_class() -> None:
    found = guard(steps=1).extract(VICTIM, DATASET, 7)
    _, i_N, _ = guard().starting_points(VICTIM, DATASET, 7)
    assert torch.equal(found.tensors["labels_N"], VICTIM(found.tensors["queries_NCHW"]).argmax(dim=1))
    assert int((found.tensors["labels_N"] == i_N).sum()) > NUM // 2


def test_a_query_that_converges_with_the_last_step_counts_as_converged(fingerprint: Fingerprint) -> None:
    last = fingerprint.metadata["steps_run"]
    assert guard(steps=last).extract(VICTIM, DATASET, 7).metadata == fingerprint.metadata
    assert guard(steps=last - 1).extract(VICTIM, DATASET, 7).metadata["converged_share"] < 1


def test_converged_queries_lie_in_the_target_class_with_the_margin(fingerprint: Fingerprint) -> None:
    _, i_N, j_N = guard().starting_points(VICTIM, DATASET, 7)
    logits_NK = VICTIM(fingerprint.tensors["queries_NCHW"])
    assert fingerprint.metadata["converged_share"] == 1.0
    assert torch.equal(fingerprint.tensors["labels_N"], j_N)
    assert (logits_NK.gather(1, j_N[:, None]) - logits_NK.gather(1, i_N[:, None])).min() > 10 - 1e-4


def test_queries_stay_in_the_pixel_box_unless_that_is_switched_off(fingerprint: Fingerprint) -> None:
    queries_NCHW = fingerprint.tensors["queries_NCHW"]
    assert 0 <= float(queries_NCHW.min()) <= float(queries_NCHW.max()) <= 1
    free_NCHW = guard(box=False).extract(VICTIM, DATASET, 7).tensors["queries_NCHW"]
    assert float(free_NCHW.min()) < -0.01
    assert float(free_NCHW.max()) > 1.01


def test_targets_are_the_least_likely_class_or_any_other_class() -> None:
    x_NCHW, i_N, j_N = guard().starting_points(VICTIM, DATASET, 3)
    for x_CHW, i, j in zip(x_NCHW, i_N, j_N, strict=True):
        row = VICTIM(x_CHW[None])[0].tolist()
        assert (int(i), int(j)) == (row.index(max(row)), row.index(min(row)))
    pairs = set()
    for seed in range(8):
        _, i_N, j_N = guard(target="random", num_queries=48).starting_points(VICTIM, DATASET, seed)
        pairs |= set(zip(i_N.tolist(), j_N.tolist(), strict=True))
    assert pairs == {(i, j) for i in range(4) for j in range(4) if i != j}


def test_queries_start_at_training_images_of_the_victim() -> None:
    x_NCHW, _, _ = guard(num_queries=48).starting_points(VICTIM, DATASET, 3)
    order = [(x_CHW == DATASET.train.pixels()).flatten(1).all(dim=1).nonzero().item() for x_CHW in x_NCHW]
    assert sorted(order) == list(range(48))
    assert order != list(range(48))


def test_suspects_asked_in_train_mode_miss_labels_and_so_does_the_victim(fingerprint: Fingerprint) -> None:
    victim = tiny_model(0)
    defense = guard(suspect_mode="train")
    with unchanged(victim):
        rate = defense.verify(fingerprint, victim)["matching_rate"]
    assert rate < 1.0
    assert rate == defense.verify(fingerprint, victim)["matching_rate"]


def test_a_new_adam_every_step_makes_every_step_a_whole_one() -> None:
    moved = {}
    for rebuilt in (False, True):
        defense = guard(steps=7, k=1000.0, box=False, rebuild_adam=rebuilt)
        x_NCHW, _, _ = defense.starting_points(VICTIM, DATASET, 7)
        moved[rebuilt] = (defense.extract(VICTIM, DATASET, 7).tensors["queries_NCHW"] - x_NCHW) / 0.01
    assert not torch.allclose(moved[False], moved[False].round(), atol=0.05)
    torch.testing.assert_close(moved[True], moved[True].round(), atol=0.01, rtol=0)


CHOICES: list[dict[str, object]] = [
    {},
    {"stop": "flip"},
    {"stop": "flip", "target": "any", "box": False},
    {"k": 5.0, "adam": "keras", "learning_rate": 0.002, "box": False},
    {"k": 0.01, "units": "normalised", "rebuild_adam": True, "box": False},
    {"units": "normalised", "learning_rate": 0.05},
]


CHOSEN = ("images", "stop", "k", "target", "learning_rate", "units", "adam", "rebuild_adam", "box")


def plain_query(victim: nn.Module, x_CHW: Tensor, i: int, j: int, choice: dict[str, object], steps: int) -> Tensor:
    """One query in float64 from its description: a step at a time, element by element where Adam is concerned."""
    setting = {"stop": "margin", "k": 10.0, "adam": "torch", "learning_rate": 0.01, "box": True, **choice}
    unit = torch.tensor(DATASET.std_C).double().view(3, 1, 1) if setting.get("units") == "normalised" else 1.0
    x, m, v, t = x_CHW.double(), 0.0, 0.0, 0
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        z = victim(x[None])[0]
        loss = torch.relu(z[i] - z[j] + setting["k"]) + torch.relu(
            max(z[c] for c in range(4) if c not in (i, j)) - z[i]
        )
        if setting["stop"] == "margin" and float(loss.detach()) <= 1e-5:
            break
        g = torch.autograd.grad(loss, x)[0] * unit
        if setting.get("rebuild_adam"):
            m, v, t = 0.0, 0.0, 0
        m, v, t = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g, t + 1
        if setting["adam"] == "keras":
            size = (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) * m / (v**0.5 + 1e-7)
        else:
            size = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
        x = x.detach() - setting["learning_rate"] * unit * size
        x = x.clamp(0, 1) if setting["box"] else x
        if setting["stop"] == "flip" and int(z.argmax()) == j:
            break
    return x.detach()


PUBLISHED = [
    {name: value for name, value in vars(make_defense("ipguard", profile=profile).config).items() if name in CHOSEN}
    for profile in ("original", "qurd", "released")
]


@pytest.mark.parametrize("choice", CHOICES + PUBLISHED, ids=str)
def test_queries_equal_the_published_search_in_plain_float64_loops(choice: dict[str, object]) -> None:
    defense = guard(num_queries=6, steps=25, **choice)
    x_NCHW, i_N, j_N = defense.starting_points(VICTIM, DATASET, 3)
    found_NCHW = defense.extract(VICTIM, DATASET, 3).tensors["queries_NCHW"]
    exact = tiny_model(0, dtype=torch.float64)
    for x, i, j, found in zip(x_NCHW, i_N.tolist(), j_N.tolist(), found_NCHW, strict=True):
        expected = plain_query(exact, x, i, j, choice, 25)
        # A gradient of zero up to rounding may move a pixel either way: allow one in fifty to differ.
        assert float(((found - expected).abs() > 1e-4).double().mean()) <= 0.02
    assert float((found_NCHW - x_NCHW).abs().amax()) > 0.005


def test_a_query_that_stops_at_the_flip_lies_just_behind_the_boundary(fingerprint: Fingerprint) -> None:
    early, late = guard(stop="flip").extract(VICTIM, DATASET, 7), fingerprint
    _, i_N, j_N = guard().starting_points(VICTIM, DATASET, 7)
    margins = []
    for found in (early, late):
        logits_NK = VICTIM(found.tensors["queries_NCHW"]).detach()
        margins.append((logits_NK.gather(1, j_N[:, None]) - logits_NK.gather(1, i_N[:, None])).squeeze(1))
        assert found.metadata["converged_share"] == 1.0
    assert float(margins[0].mean()) < 5
    assert float(margins[0].max()) < 9.9 < float(margins[1].min())
    assert early.metadata["steps_run"] < late.metadata["steps_run"]


def test_any_class_may_be_the_own_one_whose_query_stays_the_image() -> None:
    defense = guard(target="any", stop="flip", num_queries=48)
    x_NCHW, i_N, j_N = defense.starting_points(VICTIM, DATASET, 0)
    own_N = i_N == j_N
    assert 4 <= int(own_N.sum()) <= 24
    found = defense.extract(VICTIM, DATASET, 0).tensors
    assert torch.equal(found["queries_NCHW"][own_N], x_NCHW[own_N])
    assert bool(found["converged_N"][own_N].all())
    assert not bool((found["queries_NCHW"] == x_NCHW).flatten(1).all(dim=1)[~own_N].any())


def test_queries_can_start_at_test_images() -> None:
    x_NCHW, _, _ = guard(num_queries=48, images="test").starting_points(VICTIM, DATASET, 3)
    pool_NCHW = DATASET.test.pixels()
    order = [(x_CHW == pool_NCHW).flatten(1).all(dim=1).nonzero().item() for x_CHW in x_NCHW]
    assert sorted(order) == list(range(48))


def test_a_victim_with_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="one class only"):
        guard().extract(tiny_model(0, num_classes=1), DATASET, 0)


def test_a_fine_tuned_copy_matches_more_than_independent_models() -> None:
    data = digits_dataset()
    victim = fitted(tiny_model(0, num_classes=10, channels=1), data.train)
    derived = fitted(copy.deepcopy(victim), data.substitute, steps=5, learning_rate=0.002)
    independent = [fitted(tiny_model(seed, num_classes=10, channels=1), data.train, seed=seed) for seed in (1, 2)]
    defense = guard(num_queries=40, steps=100)
    found = defense.extract(victim, data, 0)
    score = defense.verify(found, derived)["matching_rate"]
    others = [defense.verify(found, model)["matching_rate"] for model in independent]
    assert score >= 0.8
    assert max(others) <= score - 0.3


def test_a_suspect_for_images_of_another_size_is_refused_with_the_shape(fingerprint: Fingerprint) -> None:
    larger = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    with pytest.raises(
        UserError, match=r"suspect Sequential cannot take queries of shape \(3, 8, 8\).*model.input_size"
    ):
        guard().verify(fingerprint, larger)
