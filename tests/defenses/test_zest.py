"""ZEST: its weights against numpy's least squares on explicitly masked images, its distances against scipy's."""

from __future__ import annotations

import copy
import dataclasses
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from skimage.segmentation import quickshift
from torch import Tensor, nn

from rnet.bench.sequential_zest import sequential_verify, sequential_weights
from rnet.config.run import load_config
from rnet.data.images import Dataset, Part, TensorSource
from rnet.defenses.base import Fingerprint
from rnet.defenses.negatives import Negatives
from rnet.defenses.zest import defense as zest
from rnet.defenses.zest import masking
from rnet.defenses.zest.comparing import ORDERS, distance, match_classes, normalise
from rnet.defenses.zest.config import ZestConfig
from rnet.defenses.zest.defense import REDRAWN, Zest
from rnet.errors import UserError
from rnet.models.access import limit_access
from tests.defenses.tiny import tiny_dataset, tiny_model

KINDS = {"l1": "cityblock", "l2": "euclidean", "linf": "chebyshev", "cosine": "cosine"}


def with_images(images_NCHW: Tensor) -> Dataset:
    """The tiny dataset with other training images."""
    count, channels, size = images_NCHW.shape[:3]
    positions_N = torch.arange(count)
    part = Part(source=TensorSource(images_NCHW), positions_N=positions_N, labels_N=positions_N % 4)
    return dataclasses.replace(tiny_dataset(channels=channels, image_size=size), train=part)


def smooth_images(count: int, size: int, *, channels: int = 3, seed: int = 0) -> Tensor:
    """uint8 images of slowly varying colour, which quickshift cuts into about as many segments as a photograph."""
    coarse = 0.3 + 0.4 * torch.rand(count, channels, 3, 3, generator=torch.Generator().manual_seed(seed))
    return (nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def make(**changes: object) -> Zest:
    return Zest(ZestConfig(**{"num_images": 4, "num_masks": 40, **changes}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return with_images(smooth_images(6, 12))


@pytest.fixture(scope="module")
def victim() -> nn.Module:
    return tiny_model(0)


@pytest.fixture(scope="module")
def fingerprint(dataset: Dataset, victim: nn.Module) -> Fingerprint:
    return make().extract(victim, dataset, seed=3)


class Permuted(nn.Module):
    """A model whose classes have other numbers; classes past the model's own answer noise."""

    def __init__(self, model: nn.Module, order: list[int], extra: int = 0) -> None:
        super().__init__()
        self.model, self.order = model, order
        self.noise = nn.Linear(3, extra) if extra else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits_BK = self.model(x_BCHW)[:, self.order]
        if self.noise is None:
            return logits_BK
        return torch.cat([100 * self.noise(x_BCHW.mean(dim=(2, 3))), logits_BK], dim=1)


@pytest.mark.parametrize("align", ["auto", "always", "never"])
def test_the_victim_and_its_exact_copy_are_at_distance_zero(
    fingerprint: Fingerprint, victim: nn.Module, align: str
) -> None:
    for model in (victim, copy.deepcopy(victim)):
        assert make(align=align).verify(fingerprint, model) == {order: 0.0 for order in ORDERS}


def test_a_slightly_changed_victim_is_closer_than_an_independent_model(
    fingerprint: Fingerprint, victim: nn.Module
) -> None:
    derived = copy.deepcopy(victim)
    with torch.no_grad():
        for parameter in derived.parameters():
            parameter.mul_(1.01)
    near, far = make().verify(fingerprint, derived), make().verify(fingerprint, tiny_model(1))
    for metric in Zest.metrics:
        assert 0 < near[metric.name] < 0.5 * far[metric.name] < metric.high


@pytest.mark.parametrize("num_masks", [40, 8], ids=["more masks than segments", "fewer masks than segments"])
def test_weights_are_the_minimum_norm_least_squares_of_explicitly_masked_images(
    dataset: Dataset, victim: nn.Module, num_masks: int
) -> None:
    fingerprint = make(num_masks=num_masks).extract(victim, dataset, seed=0)
    counts_N = fingerprint.tensors["num_segments_N"]
    assert (counts_N.max() > num_masks) == (num_masks == 8)
    assert counts_N.unique().numel() > 1, "some image must have padded columns"
    expected_TK = sequential_weights(fingerprint, victim)
    assert expected_TK.shape == (int(counts_N.sum()), 4)
    np.testing.assert_allclose(fingerprint.tensors["weights_TK"].numpy(), expected_TK, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=4), num_masks=st.integers(2, 20), seed=st.integers(0, 99)
)
def test_weights_solve_any_least_squares_problem_in_float64(counts: list[int], num_masks: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks_NSM = zest.draw_masks(torch.tensor(counts), num_masks, generator)
    answers_NSK = torch.randn(len(counts), num_masks, 3, generator=generator)
    defense = make()
    pairs = list(zip(masks_NSM, answers_NSK, strict=True))
    defense._answers = lambda *args: iter(pairs)  # type: ignore[method-assign]
    tensors = {"num_segments_N": torch.tensor(counts)}
    weights_TK = defense._fit(tensors, masks_NSM, nn.Identity(), 0, role="suspect").numpy()
    blocks = [
        np.linalg.lstsq(d[:, :c].double().numpy(), y.double().numpy(), rcond=None)[0]
        for d, y, c in zip(masks_NSM, answers_NSK, counts, strict=True)
    ]
    np.testing.assert_allclose(weights_TK, np.concatenate(blocks), rtol=1e-8, atol=1e-8)


def test_scores_are_scipys_distances_between_independently_fitted_weights(
    fingerprint: Fingerprint, victim: nn.Module
) -> None:
    suspect = tiny_model(1)
    a, b = (sequential_weights(fingerprint, model).reshape(1, -1) for model in (victim, suspect))
    scores = make(align="never").verify(fingerprint, suspect)
    assert scores == pytest.approx(sequential_verify(fingerprint, suspect), rel=1e-5)
    for order, kind in KINDS.items():
        assert scores[order] == pytest.approx(float(cdist(a, b, kind)[0, 0]), rel=1e-5)


def test_cosine_distance_to_weights_of_zero_is_one_and_between_them_zero() -> None:
    zeros, ones = torch.zeros(5, 2, dtype=torch.float64), torch.ones(5, 2, dtype=torch.float64)
    assert distance(ones, zeros, "cosine") == 1
    assert distance(zeros, zeros, "cosine") == 0
    assert distance(ones, -3 * ones, "cosine") == pytest.approx(2)


def test_absent_segments_take_the_mean_colour_and_present_ones_are_untouched() -> None:
    x_CHW, mean_C = torch.rand(3, 4, 5), torch.tensor([0.1, 0.2, 0.3])
    segments_HW = torch.arange(20).view(4, 5).int() % 3
    masks_BM = torch.tensor([[1, 1, 1], [0, 1, 0]], dtype=torch.uint8)
    result = masking.masked(x_CHW, segments_HW, masks_BM, mean_C)
    for b in range(2):
        for row in range(4):
            for column in range(5):
                there = masks_BM[b, segments_HW[row, column]]
                assert torch.equal(result[b, :, row, column], x_CHW[:, row, column] if there else mean_C)


def test_reference_images_are_the_first_training_images(dataset: Dataset, fingerprint: Fingerprint) -> None:
    assert torch.equal(fingerprint.tensors["images_NCHW"], dataset.train.fetch(torch.arange(4)))


def test_masked_pixels_get_the_datasets_mean(dataset: Dataset, fingerprint: Fingerprint) -> None:
    assert fingerprint.tensors["mean_C"].tolist() == pytest.approx(dataset.mean_C)


def test_segments_are_quickshift_on_the_255_scale(dataset: Dataset, fingerprint: Fingerprint) -> None:
    for n in range(4):
        image_HWC = dataset.train.fetch(torch.tensor([n]))[0].permute(1, 2, 0).double().numpy()
        expected_HW = quickshift(image_HWC, kernel_size=4, max_dist=200, ratio=0.2)
        assert np.array_equal(fingerprint.tensors["segments_NHW"][n].numpy(), expected_HW)
        assert int(fingerprint.tensors["num_segments_N"][n]) == len(np.unique(expected_HW))


def test_a_photograph_sized_32_has_many_segments_and_would_have_hardly_any_on_the_unit_scale() -> None:
    images_NCHW = smooth_images(2, 32).double()
    config = ZestConfig()
    assert (masking.segment(images_NCHW, config)[1] >= 10).all()
    assert (masking.segment(images_NCHW / 255, config)[1] <= 3).all()


def test_grey_images_are_segmented_as_if_repeated_to_three_channels() -> None:
    grey_N1HW = smooth_images(2, 10, channels=1)
    fingerprint = make(num_images=2).extract(tiny_model(0, channels=1), with_images(grey_N1HW), seed=0)
    expected, _ = masking.segment(grey_N1HW.double().repeat(1, 3, 1, 1), ZestConfig())
    assert torch.equal(fingerprint.tensors["segments_NHW"], expected)
    assert fingerprint.metadata["input_shape"] == [1, 10, 10]


def test_segments_do_not_depend_on_the_number_of_threads() -> None:
    images_NCHW = smooth_images(4, 12).double()
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(masking.segment(images_NCHW, ZestConfig())[0])
    torch.set_num_threads(before)
    assert torch.equal(*results)


def test_masks_are_fair_coins_whose_first_row_shows_everything() -> None:
    counts_N = torch.tensor([3, 20, 1])
    masks_NSM = zest.draw_masks(counts_N, 1000, torch.Generator().manual_seed(0))
    assert masks_NSM.shape == (3, 1000, 20)
    assert set(masks_NSM.unique().tolist()) == {0, 1}
    for masks_SM, count in zip(masks_NSM, counts_N.tolist(), strict=True):
        assert (masks_SM[0, :count] == 1).all()
        assert not masks_SM[:, count:].any()
        assert (masks_SM[1:, :count].double().mean(dim=0) - 0.5).abs().max() < 0.07  # more than 4 standard deviations


def test_masks_are_stored_eight_to_a_byte_and_come_back() -> None:
    counts_N = torch.tensor([9, 4])
    masks_NSM = zest.draw_masks(counts_N, 5, torch.Generator().manual_seed(1))
    packed = masking.pack_masks(masks_NSM)
    assert packed.shape == (2, 5, 2)
    stored = Fingerprint(tensors={"masks_NSP": packed, "num_segments_N": counts_N})
    assert torch.equal(masking.unpack_masks(stored), masks_NSM)


def test_every_suspect_sees_the_stored_masks(
    fingerprint: Fingerprint, victim: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn_again(*_: object) -> Tensor:
        raise AssertionError("masks were drawn at verification")

    monkeypatch.setattr(zest, "draw_masks", drawn_again)
    assert make().verify(fingerprint, victim)["l2"] == 0


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_scores_do_not_depend_on_how_many_images_go_through_the_model_at_once(
    fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    suspect = tiny_model(1)
    expected = make().verify(fingerprint, suspect)
    monkeypatch.setattr(zest, "images_per_forward", lambda *_: batch)
    assert make().verify(fingerprint, suspect) == pytest.approx(expected, rel=1e-5)


def test_more_memory_allows_larger_forward_passes() -> None:
    model, x_1CHW = tiny_model(0), torch.rand(1, 3, 12, 12)
    # the largest tensors are block1's: 6 channels of 12 x 12 float32, of which four are allowed per image
    assert zest.images_per_forward(model, x_1CHW, 1) == 2**20 // (4 * 6 * 12 * 12 * 4)
    assert zest.images_per_forward(model, x_1CHW, 0) == 1


def test_scores_do_not_depend_on_the_order_of_the_images(victim: nn.Module, fingerprint: Fingerprint) -> None:
    order = torch.tensor([2, 0, 3, 1])
    counts = fingerprint.tensors["num_segments_N"].tolist()
    tensors = {k: v[order] for k, v in fingerprint.tensors.items() if k not in ("mean_C", "weights_TK")}
    blocks = fingerprint.tensors["weights_TK"].split(counts)
    tensors |= {"mean_C": fingerprint.tensors["mean_C"], "weights_TK": torch.cat([blocks[i] for i in order])}
    shuffled = Fingerprint(tensors=tensors, metadata=fingerprint.metadata)
    suspect = tiny_model(1)
    assert make().verify(shuffled, suspect) == pytest.approx(make().verify(fingerprint, suspect), rel=1e-9)


def test_classes_are_matched_always_or_not_at_all_for_equal_numbers_of_classes(
    fingerprint: Fingerprint, victim: nn.Module
) -> None:
    renumbered = Permuted(victim, [2, 0, 3, 1])
    assert max(make(align="always").verify(fingerprint, renumbered).values()) < 1e-9
    plain = make(align="auto").verify(fingerprint, renumbered)
    assert min(plain.values()) > 0.1
    assert make(align="never").verify(fingerprint, renumbered) == plain


@pytest.mark.parametrize(("order", "extra"), [([3, 1, 0, 2], 2), ([3, 1], 0)], ids=["more", "fewer"])
def test_with_other_numbers_of_classes_unmatched_ones_are_dropped(
    fingerprint: Fingerprint, victim: nn.Module, order: list[int], extra: int
) -> None:
    assert max(make().verify(fingerprint, Permuted(victim, order, extra)).values()) < 1e-9


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("shape", [(5, 5), (4, 6), (6, 4)])
def test_matching_is_greedy_by_the_smallest_distance_left(order: str, shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(30, shape[0])), generator.normal(size=(30, shape[1]))
    left = {
        (i, j): cdist(a[:, [i]].T, b[:, [j]].T, KINDS[order])[0, 0] for i in range(shape[0]) for j in range(shape[1])
    }
    pairs = []
    while left:
        i, j = min(left, key=lambda pair: left[pair])
        pairs.append((i, j))
        left = {(p, q): d for (p, q), d in left.items() if p != i and q != j}
    assert list(zip(*match_classes(torch.from_numpy(a), torch.from_numpy(b), order), strict=True)) == pairs
    chosen_a, chosen_b = a[:, [i for i, _ in pairs]].reshape(1, -1), b[:, [j for _, j in pairs]].reshape(1, -1)
    expected = float(cdist(chosen_a, chosen_b, KINDS[order])[0, 0])
    assert distance(torch.from_numpy(a), torch.from_numpy(b), order, "always") == pytest.approx(expected)


def test_another_number_of_classes_is_refused_when_matching_is_off(fingerprint: Fingerprint) -> None:
    with pytest.raises(UserError, match=r"6 classes .* victim has 4; set defense.align=auto"):
        make(align="never").verify(fingerprint, tiny_model(1, num_classes=6))


def test_a_distance_is_normalised_by_the_mean_of_at_least_five_references() -> None:
    assert normalise(3.0, [1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1.0)
    with pytest.raises(UserError, match="4 reference distances are too few"):
        normalise(3.0, [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(UserError, match="mean reference distance is 0"):
        normalise(3.0, [0.0] * 5)


@pytest.mark.parametrize(("count", "normalised"), [(4, 0.5), (3, None)])
def test_five_pairs_of_independent_models_show_a_distance_relative_to_theirs(
    count: int, normalised: float | None
) -> None:
    others = [dict.fromkeys(ORDERS, 7.0)] * count
    pairs = [dict.fromkeys(ORDERS, 2.0)] * (count * (count - 1) // 2)
    judged = make().judge(dict.fromkeys(ORDERS, 1.0), Negatives.of(others, pairs), 0.05)
    assert {name: found.normalised for name, found in judged.metrics.items()} == dict.fromkeys(ORDERS, normalised)
    assert judged.vote is None


def test_images_with_fewer_than_two_segments_are_counted_and_warned_about(
    victim: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    images_NCHW = smooth_images(4, 12)
    images_NCHW[[1, 2]] = 128
    with caplog.at_level(logging.WARNING, logger="rnet.defenses.zest.defense"):
        fingerprint = make().extract(victim, with_images(images_NCHW), seed=0)
    assert fingerprint.metadata["images_below_two_segments"] == 2
    assert fingerprint.metadata["segments_per_image"]["least"] == 1
    assert "2 of 4 reference images have fewer than 2 segments" in caplog.text


def test_images_that_are_neither_grey_nor_colour_are_refused() -> None:
    with pytest.raises(UserError, match="images of 2 channels"):
        masking.segment(torch.zeros(1, 2, 8, 8, dtype=torch.float64), ZestConfig())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("changes", [{"masks": "redrawn"}, {"model_mode": "train"}, {"images": "test"}])
def test_whatever_the_settings_the_victim_is_at_distance_zero_from_itself(
    dataset: Dataset, changes: dict[str, str], dropout: float
) -> None:
    victim = tiny_model(0)
    victim.dropout.p = dropout
    defense = make(**changes)
    assert defense.verify(defense.extract(victim, dataset, seed=3), victim) == dict.fromkeys(ORDERS, 0.0)


def test_suspects_see_one_of_eight_draws_of_masks_as_the_victim_did(dataset: Dataset, victim: nn.Module) -> None:
    defense = make(masks="redrawn")
    made = defense.extract(victim, dataset, seed=3)
    assert made.tensors["weights_RTK"].shape[0] == REDRAWN
    assert not {"masks_NSP", "weights_TK"} & made.tensors.keys()
    suspects = [tiny_model(seed) for seed in range(1, 9)]
    draws = [defense._draw_of(made, suspect) for suspect in suspects]
    assert len({*draws}) > 2
    for suspect, draw in zip(suspects[:3], draws, strict=False):
        scores, representation = defense.represent(made, suspect)
        masks_NSM = masking.draw_masks(
            made.tensors["num_segments_N"], 40, zest.seeded_generator(3, f"zest/masks {draw}")
        )
        stored = dataclasses.replace(made, tensors={**made.tensors, "masks_NSP": masking.pack_masks(masks_NSM)})
        ours, theirs = (torch.from_numpy(sequential_weights(stored, model)) for model in (victim, suspect))
        assert scores == pytest.approx({name: distance(ours, theirs, name) for name in ORDERS}, rel=1e-5)
        assert representation == {}, "suspects with other masks cannot be compared with each other"


def test_train_mode_makes_answers_depend_on_the_batch_and_on_dropout(
    dataset: Dataset, fingerprint: Fingerprint
) -> None:
    defense, victim = make(model_mode="train"), tiny_model(0)
    before = {name: tensor.clone() for name, tensor in victim.state_dict().items()}
    noisy = defense.extract(victim, dataset, seed=3).tensors["weights_TK"]
    victim.dropout.p = 0.0
    without_dropout = defense.extract(victim, dataset, seed=3).tensors["weights_TK"]
    for one, other in ((noisy, without_dropout), (without_dropout, fingerprint.tensors["weights_TK"])):
        assert distance(one, other, "l2") > 1e-2  # dropout; batch statistics of masked copies of one image
    assert not victim.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in victim.state_dict().items())


def test_train_mode_has_batches_of_its_own_whatever_the_memory(
    dataset: Dataset, victim: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    defense = make(model_mode="train")
    expected = defense.extract(victim, dataset, seed=3)
    monkeypatch.setattr(zest, "images_per_forward", lambda *_: 7)
    again = defense.extract(victim, dataset, seed=3)
    assert torch.equal(again.tensors["weights_TK"], expected.tensors["weights_TK"])


def test_train_mode_needs_the_model_itself(dataset: Dataset, victim: nn.Module) -> None:
    defense, suspect = make(model_mode="train"), tiny_model(1)
    made = defense.extract(victim, dataset, seed=3)
    limit_access(suspect, "logits", "only answers")
    with pytest.raises(UserError, match="needs weights in the victim's architecture, but the suspect only answers"):
        defense.test(made, suspect)


def test_images_of_the_test_part_are_drawn_from_it(victim: nn.Module) -> None:
    dataset = tiny_dataset(image_size=12)
    made, other = (make(images="test").extract(victim, dataset, seed=seed) for seed in (3, 4))
    shown = {tuple(image.flatten().tolist()) for image in dataset.test.fetch(torch.arange(len(dataset.test)))}
    drawn = [tuple(image.flatten().tolist()) for image in made.tensors["images_NCHW"]]
    assert len({*drawn}) == 4
    assert {*drawn} <= shown
    assert drawn != [tuple(image.flatten().tolist()) for image in other.tensors["images_NCHW"]]
    with pytest.raises(UserError, match="num_images=49 but the test part of dataset tiny has 48"):
        make(images="test", num_images=49).extract(victim, dataset, seed=3)


def test_of_normalised_images_only_the_first_three_get_their_scale_back(dataset: Dataset) -> None:
    images_NCHW = dataset.train.fetch(torch.arange(6))
    seen = masking.colours_of(images_NCHW, dataset, "first_three")
    mean_C11, std_C11 = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (dataset.mean_C, dataset.std_C))
    scored_NCHW = (images_NCHW.double() / 255 - mean_C11) / std_C11
    for n in range(6):
        expected = scored_NCHW[n] * dataset.std_C[n] + dataset.mean_C[n] if n < 3 else scored_NCHW[n]
        torch.testing.assert_close(seen[n], expected.clamp(0, 1) * 255)
    whole = masking.colours_of(images_NCHW, dataset, "pixels")
    torch.testing.assert_close(whole, images_NCHW.double())
    seen_counts, counts = (masking.segment(colours, ZestConfig())[1] for colours in (seen, whole))
    assert not torch.equal(seen_counts[3:], counts[3:])
    made = make(segmented="first_three").extract(tiny_model(0), dataset, seed=0)
    assert torch.equal(made.tensors["num_segments_N"], seen_counts[:4])


PROFILES = {
    "original": {
        "num_images": 128, "images": "train", "num_masks": 1000, "masks": "stored", "segmented": "pixels",
        "kernel_size": 4.0, "max_dist": 200.0, "ratio": 0.2, "align": "always", "model_mode": "eval",
    },
    "released": {
        "num_images": 128, "images": "test", "num_masks": 500, "masks": "redrawn", "segmented": "first_three",
        "kernel_size": 4.0, "max_dist": 200.0, "ratio": 0.2, "align": "always", "model_mode": "train",
    },
}  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_sets_all_choices_of_its_source(profile: str, victim: nn.Module, dataset: Dataset) -> None:
    config = load_config(["defense=zest", f"defense.profile={profile}"]).defense
    chosen = {key: value for key, value in dataclasses.asdict(config).items() if key in PROFILES[profile]}
    assert chosen == PROFILES[profile]
    assert dataclasses.asdict(config).keys() == {*PROFILES[profile], "name", "profile", "memory_mb"}
    small = Zest(dataclasses.replace(config, num_images=4, num_masks=40))
    assert small.verify(small.extract(victim, dataset, seed=1), victim) == dict.fromkeys(ORDERS, 0.0)
