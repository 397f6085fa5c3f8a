"""ModelDiff: the pairs, the two similarities, and each choice in which published programs differ."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rnet.defenses.base import Fingerprint
from rnet.defenses.modeldiff import defense as modeldiff
from rnet.defenses.modeldiff import gradient_pairs
from rnet.defenses.modeldiff.config import ModelDiffConfig
from rnet.defenses.modeldiff.defense import ModelDiff
from rnet.defenses.modeldiff.gradient_pairs import shift_objective
from rnet.defenses.modeldiff.search import Score
from rnet.defenses.modeldiff.similarity import ddm_similarity, ddv_similarity, decision_distances
from rnet.defenses.queries import seeded_generator
from rnet.errors import UserError
from tests.defenses.tiny import digits_dataset, fitted, tiny_dataset, tiny_model, unchanged

DATASET = tiny_dataset()
VICTIM = tiny_model(0)
NUM = 12
Rows = list[list[float]]


def diff(**changes: object) -> ModelDiff:
    return ModelDiff(ModelDiffConfig(**{"num_pairs": NUM, "steps": 10, **changes}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fingerprint() -> Fingerprint:
    return diff().extract(VICTIM, DATASET, 7)


def loop_cosine(a: list[float], b: list[float]) -> float:
    dot = norm_a = norm_b = 0.0
    for x, y in zip(a, b, strict=True):
        dot, norm_a, norm_b = dot + x * y, norm_a + x * x, norm_b + y * y
    return dot / math.sqrt(norm_a) / math.sqrt(norm_b) if norm_a and norm_b else 0.0


def loop_ddv(seeds: Rows, perturbed: Rows) -> list[float]:
    return [1 - loop_cosine(a, b) for a, b in zip(seeds, perturbed, strict=True)]


def loop_ddm(logits: Rows) -> list[float]:
    return [math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True))) for a in logits for b in logits]


def random_logits(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), pairs=st.integers(1, 5), classes=st.integers(2, 5), other=st.integers(2, 5))
def test_both_similarities_equal_their_formulas_in_plain_loops(seed: int, pairs: int, classes: int, other: int) -> None:
    victim, suspect = random_logits(seed, 2, pairs, classes), random_logits(seed + 1, 2, pairs, other)
    vectors = [loop_ddv(*model.tolist()) for model in (victim, suspect)]
    for model, vector in zip((victim, suspect), vectors, strict=True):
        assert decision_distances(*model).tolist() == pytest.approx(vector, abs=1e-12)
    ddv = ddv_similarity(decision_distances(*victim), decision_distances(*suspect))
    assert ddv == pytest.approx(loop_cosine(*vectors), abs=1e-12)
    matrices = [loop_ddm([*seeds, *perturbed]) for seeds, perturbed in (victim.tolist(), suspect.tolist())]
    ddm = ddm_similarity(victim.flatten(0, 1), suspect.flatten(0, 1))
    assert ddm == pytest.approx((loop_cosine(*matrices) + 1) / 2, abs=1e-12)
    assert 0 <= ddv <= 1
    assert 0 <= ddm <= 1


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_model_is_perfectly_similar_to_itself_at_any_scale(seed: int, scale: float) -> None:
    seeds, perturbed = random_logits(seed, 2, 9, 4).float() * scale
    assert ddv_similarity(decision_distances(seeds, perturbed), decision_distances(seeds, perturbed)) == 1.0
    assert ddm_similarity(torch.cat((seeds, perturbed)), torch.cat((seeds, perturbed))) == 1.0
    assert decision_distances(seeds, seeds).tolist() == [0.0] * 9


def test_a_model_that_tells_nothing_apart_has_similarity_zero() -> None:
    assert ddv_similarity(torch.zeros(3), torch.ones(3)) == 0.0
    assert decision_distances(torch.zeros(2, 3), torch.ones(2, 3)).tolist() == [1.0, 1.0]
    assert ddm_similarity(torch.ones(4, 3), random_logits(0, 4, 3)) == 0.5


def test_scores_of_a_suspect_equal_plain_loops_over_its_logits(fingerprint: Fingerprint) -> None:
    suspect, rows = tiny_model(1), {}
    for model in (VICTIM, suspect):
        rows[model] = [
            [model(x_CHW[None])[0].tolist() for x_CHW in fingerprint.tensors[name]]
            for name in ("seeds_NCHW", "perturbed_NCHW")
        ]
    scores = diff().verify(fingerprint, suspect)
    ddv = loop_cosine(loop_ddv(*rows[VICTIM]), loop_ddv(*rows[suspect]))
    matrices = [loop_ddm([*seeds, *perturbed]) for seeds, perturbed in rows.values()]
    ddm = (loop_cosine(*matrices) + 1) / 2
    assert scores == {"ddv": pytest.approx(ddv, abs=1e-5), "ddm": pytest.approx(ddm, abs=1e-5)}
    assert ddv < 0.95


def test_scores_do_not_depend_on_the_batch_size(fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = diff().verify(fingerprint, tiny_model(1))
    whole = modeldiff.logits_of
    monkeypatch.setattr(modeldiff, "logits_of", lambda model, x, **names: whole(model, x, 5, **names))
    assert diff().verify(fingerprint, tiny_model(1)) == pytest.approx(expected, abs=1e-5)


def test_the_order_of_the_pairs_does_not_matter(fingerprint: Fingerprint) -> None:
    order = torch.randperm(NUM, generator=torch.Generator().manual_seed(0))
    shuffled = Fingerprint(
        tensors={name: t[order] for name, t in fingerprint.tensors.items()}, metadata=fingerprint.metadata
    )
    suspect = tiny_model(1)
    assert diff().verify(shuffled, suspect) == pytest.approx(diff().verify(fingerprint, suspect), abs=1e-5)


def test_default_pairs_lie_eight_levels_apart_and_the_victim_is_less_sure_of_its_label(
    fingerprint: Fingerprint,
) -> None:
    seeds_NCHW, perturbed_NCHW = (fingerprint.tensors[name] for name in ("seeds_NCHW", "perturbed_NCHW"))
    distance_N = (perturbed_NCHW - seeds_NCHW).abs().amax(dim=(1, 2, 3))
    assert float(distance_N.max()) <= 8 / 255 + 1e-6
    assert float(distance_N.min()) >= 8 / 255 - 1e-6
    assert 0 <= float(perturbed_NCHW.min()) <= float(perturbed_NCHW.max()) <= 1
    labels_N = VICTIM(seeds_NCHW).argmax(dim=1)
    before_N, after_N = (F.cross_entropy(VICTIM(x), labels_N, reduction="none") for x in (seeds_NCHW, perturbed_NCHW))
    assert bool((after_N > before_N).all())


def loop_pairs(pairs: str, steps: int, seed: int, x_NCHW: Tensor) -> Tensor:
    """The search one image at a time, from its description; only the noise is drawn as the defence draws it."""
    units = torch.tensor([1.0, 1.0, 1.0] if pairs == "default" else list(DATASET.std_C)).view(3, 1, 1)
    epsilon, step = (8 / 255, 2 / 255) if pairs == "default" else (0.06, 0.01)
    noise_NCHW = torch.rand(x_NCHW.shape, generator=seeded_generator(seed, "modeldiff/start")) * 2 - 1
    outputs_NK = torch.stack([VICTIM(x_CHW[None])[0] for x_CHW in x_NCHW]).detach()
    found = []
    for n in range(len(x_NCHW)):
        low, high = (x_NCHW[n] - epsilon * units).clamp(min=0), (x_NCHW[n] + epsilon * units).clamp(max=1)
        candidate = (x_NCHW[n] + noise_NCHW[n] * epsilon * units).clamp(0, 1)
        for _ in range(steps):
            candidate = candidate.detach().requires_grad_(True)
            o_K = VICTIM(candidate[None])[0]
            if pairs == "default":
                loss = o_K.exp().sum().log() - o_K[int(outputs_NK[n].argmax())]
            else:
                t_K = 1000 * (outputs_NK.sum(dim=0) / len(x_NCHW) - outputs_NK[n])
                loss = (o_K[0] - t_K[0]) ** 2
                for c in range(1, len(o_K)):
                    loss = loss + 0.1 * (o_K[c] - t_K[c]) ** 2 / (len(o_K) - 1)
            (gradient,) = torch.autograd.grad(loss, candidate)
            candidate = torch.min(torch.max(candidate.detach() + step * units * gradient.sign(), low), high)
        found.append(candidate.detach())
    return torch.stack(found)


@pytest.mark.parametrize("pairs", ["default", "original"])
def test_pairs_equal_a_search_one_image_at_a_time(pairs: str) -> None:
    tensors = diff(pairs=pairs, steps=6).extract(VICTIM, DATASET, 5).tensors
    expected_NCHW = loop_pairs(pairs, 6, 5, tensors["seeds_NCHW"])
    # A gradient of zero up to rounding may step either way: allow one pixel in a thousand to differ.
    assert float(((tensors["perturbed_NCHW"] - expected_NCHW).abs() > 1e-5).double().mean()) < 1e-3


def test_original_pairs_have_a_box_of_their_own_in_every_channel() -> None:
    tensors = diff(pairs="original", steps=20).extract(VICTIM, DATASET, 7).tensors
    farthest_C = (tensors["perturbed_NCHW"] - tensors["seeds_NCHW"]).abs().amax(dim=(0, 2, 3))
    torch.testing.assert_close(farthest_C, 0.06 * torch.tensor(DATASET.std_C), atol=1e-6, rtol=0)


def test_the_shift_objective_equals_its_formula_term_by_term() -> None:
    outputs, far = random_logits(0, 3, 4), random_logits(1, 3, 4) * 1000
    for n in range(3):
        expected = (outputs[n, 0] - far[n, 0]) ** 2
        for c in (1, 2, 3):
            expected = expected + 0.1 * (outputs[n, c] - far[n, c]) ** 2 / 3
        assert float(shift_objective(outputs, far)[n]) == pytest.approx(float(expected))


def test_radius_and_step_can_be_set() -> None:
    tensors = diff(epsilon=0.02, step=0.003, steps=1).extract(VICTIM, DATASET, 7).tensors
    distance = (tensors["perturbed_NCHW"] - tensors["seeds_NCHW"]).abs()
    assert 0.015 < float(distance.max()) <= 0.02 + 1e-6
    tensors = diff(epsilon=0.5, step=0.003, steps=1).extract(VICTIM, DATASET, 7).tensors
    assert float((tensors["perturbed_NCHW"] - tensors["seeds_NCHW"]).abs().max()) > 0.4


@pytest.mark.parametrize("pairs", ["default", "original"])
def test_the_chunks_of_the_search_do_not_change_the_pairs(pairs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = diff(pairs=pairs).extract(VICTIM, DATASET, 7)
    sizes: list[int] = []

    class Watched(nn.Module):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            sizes.append(len(x_BCHW))
            return VICTIM(x_BCHW)

    monkeypatch.setattr(gradient_pairs, "samples_per_chunk", lambda model, x_NCHW, memory_mb: memory_mb)
    chunked = diff(pairs=pairs, memory_mb=5).extract(Watched(), DATASET, 7)
    assert set(sizes) == {5, 2, NUM}
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(chunked.tensors[name], tensor, atol=1e-5, rtol=1e-5)


def test_seeds_are_distinct_training_images_chosen_by_the_seed(fingerprint: Fingerprint) -> None:
    again, other = (diff().extract(VICTIM, DATASET, seed) for seed in (7, 8))
    assert all(torch.equal(again.tensors[name], t) for name, t in fingerprint.tensors.items())
    assert not torch.equal(other.tensors["seeds_NCHW"], again.tensors["seeds_NCHW"])
    pool_NCHW = DATASET.train.pixels()
    found = [(x == pool_NCHW).flatten(1).all(dim=1).nonzero().item() for x in again.tensors["seeds_NCHW"]]
    assert len(set(found)) == NUM


def test_reported_numbers_are_those_of_the_pairs(fingerprint: Fingerprint) -> None:
    seeds, perturbed = (VICTIM(fingerprint.tensors[name]).tolist() for name in ("seeds_NCHW", "perturbed_NCHW"))
    changed = sum(a.index(max(a)) != b.index(max(b)) for a, b in zip(seeds, perturbed, strict=True))
    assert changed > 0
    assert fingerprint.metadata["label_changed_share"] == changed / NUM
    mean = sum(loop_ddv(seeds, perturbed)) / NUM
    assert fingerprint.metadata["mean_decision_distance"] == pytest.approx(mean, abs=1e-5)


def test_in_train_mode_even_the_victim_differs_from_itself() -> None:
    victim, port = tiny_model(0), diff(model_mode="train")
    with unchanged(victim):
        scores = port.verify(port.extract(victim, DATASET, 7), victim)
    assert scores["ddv"] < 0.99
    assert scores["ddm"] < 0.999


def plain_search(goal: str, box: bool, tries: int, seed: int, x_NCHW: Tensor) -> Tensor:
    """The paper's search with every output asked for again at every try, in float64; only the draws are shared."""
    victim, found = tiny_model(0, dtype=torch.float64), x_NCHW.double()
    size = x_NCHW[0].numel()
    generator = seeded_generator(seed, "modeldiff/search")
    pixels = torch.randint(0, size, (tries,), generator=generator).tolist()
    images = torch.randint(0, len(x_NCHW), (tries,), generator=generator).tolist()
    start: Rows = victim(found).tolist()

    def score(candidate: Tensor) -> float:
        rows: Rows = victim(candidate).tolist()
        n = len(rows)
        diversity = sum(math.dist(a, b) for a in rows for b in rows) / n / n
        shift = sum(math.dist(a, b) for a, b in zip(rows, start, strict=True)) / n
        return diversity if goal == "diversity" else diversity * shift

    best = score(found)
    for pixel, image in zip(pixels, images, strict=True):
        candidates = []
        for sign in (1, -1):
            candidate = found.clone()
            moved = candidate[image].view(-1)
            moved[pixel] += sign * 0.2 * DATASET.std_C[pixel * 3 // size]
            candidates.append(candidate.clamp(0, 1) if box else candidate)
        up, down = (score(candidate) for candidate in candidates)
        if up > best or down > best:
            found, best = (candidates[0], up) if up > down else (candidates[1], down)
    return found


@pytest.mark.parametrize(("goal", "box"), [("distance_and_diversity", True), ("diversity", True), ("diversity", False)])
def test_the_search_equals_asking_for_everything_again_at_every_try(goal: str, box: bool) -> None:
    found = diff(pairs="search", steps=80, goal=goal, box=box, num_pairs=6).extract(VICTIM, DATASET, 5).tensors
    expected_NCHW = plain_search(goal, box, 80, 5, found["seeds_NCHW"])
    torch.testing.assert_close(found["perturbed_NCHW"].double(), expected_NCHW, atol=1e-6, rtol=0)
    moved = (found["perturbed_NCHW"] != found["seeds_NCHW"]).flatten(1).sum(dim=1)
    assert 30 <= int(moved.sum()) <= 80


def test_the_search_raises_its_score_and_needs_no_gradient() -> None:
    class NoGradient(nn.Module):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            return VICTIM(x_BCHW)

    found = diff(pairs="search", steps=60).extract(NoGradient(), DATASET, 7).tensors
    score = Score(found["logits_seeds_NK"], shift=True)
    assert score.value == 0.0
    for index, row_K in enumerate(found["logits_perturbed_NK"].double()):
        score.replace_row(index, row_K)
    assert score.value > 0.01
    outside = diff(pairs="search", steps=60, box=False).extract(VICTIM, DATASET, 7).tensors["perturbed_NCHW"]
    assert 0 <= float(found["perturbed_NCHW"].min()) <= float(found["perturbed_NCHW"].max()) <= 1
    assert float(outside.min()) < 0
    assert float(outside.max()) > 1


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), shift=st.booleans())
def test_a_score_kept_up_to_date_is_the_score_of_its_rows(seed: int, shift: bool) -> None:
    start, rows = random_logits(seed, 2, 5, 3)
    score = Score(start, shift=shift)
    current = start.clone()
    for index in (3, 0, 3, 4):
        foreseen = score.with_row(index, rows[index] * (index + 1))
        score.replace_row(index, rows[index] * (index + 1))
        current[index] = rows[index] * (index + 1)
        diversity = sum(loop_ddm(current.tolist())) / 25
        distance = sum(math.dist(a, b) for a, b in zip(current.tolist(), start.tolist(), strict=True)) / 5
        assert score.value == foreseen == pytest.approx(diversity * distance if shift else diversity, rel=1e-9)


def test_seeds_can_be_test_images() -> None:
    found = diff(images="test").extract(VICTIM, DATASET, 7).tensors["seeds_NCHW"]
    pool_NCHW = DATASET.test.pixels()
    assert all(bool((x == pool_NCHW).flatten(1).all(dim=1).any()) for x in found)


def test_halves_pair_one_half_of_the_perturbed_images_with_the_other(fingerprint: Fingerprint) -> None:
    port = diff(partners="halves")
    found = port.extract(VICTIM, DATASET, 7)
    both_NCHW = torch.cat((found.tensors["seeds_NCHW"], found.tensors["perturbed_NCHW"]))
    assert torch.equal(both_NCHW, fingerprint.tensors["perturbed_NCHW"])
    assert found.metadata["num_pairs"] == NUM // 2
    assert port.verify(found, VICTIM) == {"ddv": 1.0, "ddm": 1.0}
    storages = [t.untyped_storage().data_ptr() for t in found.tensors.values()]
    assert len(set(storages)) == len(storages)  # safetensors stores no shared memory


def test_a_victim_that_cannot_be_fingerprinted_is_refused() -> None:
    constant = tiny_model(0)
    constant.classifier.weight.data.zero_()
    with pytest.raises(UserError, match="do not change"):
        diff().extract(constant, DATASET, 0)
    with pytest.raises(UserError, match="one class only"):
        diff().extract(tiny_model(0, num_classes=1), DATASET, 0)


def test_a_fine_tuned_copy_is_more_similar_than_independent_models() -> None:
    data = digits_dataset()
    victim = fitted(tiny_model(0, num_classes=10, channels=1), data.train)
    derived = fitted(copy.deepcopy(victim), data.substitute, steps=5, learning_rate=0.002)
    independent = [fitted(tiny_model(seed, num_classes=10, channels=1), data.train, seed=seed) for seed in (1, 2)]
    defense = diff(num_pairs=40, steps=20)
    found = defense.extract(victim, data, 0)
    score = defense.verify(found, derived)
    for model in independent:
        other = defense.verify(found, model)
        assert other["ddv"] < score["ddv"] - 0.05
        assert other["ddm"] < score["ddm"]
