"""SAC: correlation matrices by plain loops in float64, CutMix and JPEG inputs against the images they come from."""

from __future__ import annotations

import copy
import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from rnet.data.images import TensorSource
from rnet.defenses.akh.defense import find_mistakes
from rnet.defenses.base import Fingerprint
from rnet.defenses.queries import seeded_indices
from rnet.defenses.sac.config import SAC_INPUTS, SACConfig
from rnet.defenses.sac.defense import SAC, correlation, correlation_distance, patch_span, through_jpeg
from rnet.errors import UserError
from tests.defenses.tiny import tiny_dataset, tiny_model

DATASET = tiny_dataset(image_size=12)
VICTIM = tiny_model(0)


def make(**changes: object) -> SAC:
    return SAC(SACConfig(**{"num_queries": 20, **changes}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fingerprint() -> Fingerprint:
    return make().extract(VICTIM, DATASET, seed=1)


def plain_distance(victim_NK: Tensor, suspect_NJ: Tensor) -> float:
    """The published formula, one pair at a time."""

    def entry(a: list[float], b: list[float]) -> float:
        dot = math.fsum(p * q for p, q in zip(a, b, strict=True))
        return (1 - dot / math.sqrt(math.fsum(p * p for p in a)) / math.sqrt(math.fsum(q * q for q in b))) / 2

    v, s = victim_NK.double().tolist(), suspect_NJ.double().tolist()
    n = len(v)
    return math.fsum(abs(entry(s[i], s[j]) - entry(v[i], v[j])) for i in range(n) for j in range(n)) / n**2


def test_scores_are_the_mean_difference_of_correlations_pair_by_pair(fingerprint: Fingerprint) -> None:
    suspect = tiny_model(5)
    scores = make().verify(fingerprint, suspect)
    assert list(scores) == list(SAC_INPUTS)
    for kind in SAC_INPUTS:
        with torch.no_grad():
            v, s = (model(fingerprint.tensors[f"queries_{kind}_NCHW"]) for model in (VICTIM, suspect))
        assert scores[kind] == pytest.approx(plain_distance(v, s), rel=1e-5)
        assert 0.01 < scores[kind] < 1


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 6), k=st.integers(1, 5), j=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_distance_is_in_range_and_blind_to_the_scale_of_each_answer(n: int, k: int, j: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    v, s = torch.randn(n, k, generator=generator), torch.randn(n, j, generator=generator)
    result = correlation_distance(v, s)
    assert 0 <= result <= 1
    assert result == pytest.approx(plain_distance(v, s), abs=1e-9)
    scale_N1 = torch.rand(n, 1, generator=generator).double() + 0.5
    assert correlation_distance(v, s * scale_N1) == pytest.approx(result, abs=1e-6)


def test_opposite_answers_have_correlation_one_and_an_answer_of_zeros_one_half() -> None:
    expected = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5], [0.5, 0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(correlation(torch.tensor([[1.0, 2.0], [-2.0, -4.0], [0.0, 0.0]])), expected)


def test_a_slightly_changed_victim_is_closer_than_an_independent_model(fingerprint: Fingerprint) -> None:
    derived = copy.deepcopy(VICTIM)
    with torch.no_grad():
        for parameter in derived.parameters():
            parameter.mul_(1.02)
    near, far = make().verify(fingerprint, derived), make().verify(fingerprint, tiny_model(5))
    assert all(0 < near[kind] < 0.5 * far[kind] for kind in SAC_INPUTS)


def test_wrong_inputs_are_the_victims_mistakes(fingerprint: Fingerprint) -> None:
    mistakes = find_mistakes(VICTIM, DATASET, 20, seed=1, batch_size=256)
    assert torch.equal(fingerprint.tensors["queries_wrong_NCHW"], mistakes.queries_NCHW)
    with torch.no_grad():
        torch.testing.assert_close(fingerprint.tensors["logits_wrong_NK"], VICTIM(mistakes.queries_NCHW))


def test_cutmix_inputs_are_test_images_with_one_shared_patch_of_another_test_image(fingerprint: Fingerprint) -> None:
    images_NCHW, queries_NCHW = DATASET.test.pixels(), fingerprint.tensors["queries_cutmix_NCHW"]
    bases, patches = [], []
    for query in queries_NCHW:
        same_NHW = (images_NCHW == query).all(dim=1)
        bases.append(int(same_NHW.flatten(1).sum(dim=1).argmax()))
        patches.append(~same_NHW[bases[-1]])
    assert len(set(bases)) == 20, "every query has its own image"
    # 0.2 of 12 pixels is 2; noise images differ everywhere, so the patch is seen whole
    shared = patches[0]
    rows, columns = (shared.any(dim=dim).nonzero().squeeze(1).tolist() for dim in (1, 0))
    assert int(shared.sum()) == len(rows) * len(columns) == 4
    assert rows == [rows[0], rows[0] + 1]
    assert columns == [columns[0], columns[0] + 1]
    donors = []
    for query, patch in zip(queries_NCHW, patches, strict=True):
        assert torch.equal(patch, shared)
        donors += [i for i in bases if torch.equal(images_NCHW[i][:, patch], query[:, patch])]
    assert sorted(donors) == sorted(bases)
    assert all(donor != base for donor, base in zip(donors, bases, strict=True))


@settings(deadline=None, max_examples=60)
@given(side=st.integers(1, 64), share=st.floats(0.01, 0.9), seed=st.integers(0, 9))
def test_the_patch_has_its_full_side_and_lies_near_a_border(side: int, share: float, seed: int) -> None:
    span = patch_span(side, share, torch.Generator().manual_seed(seed), cut=False)
    assert 0 <= span.start < span.stop <= side
    assert span.stop - span.start == max(1, 2 * (int(share * side) // 2))
    nearest = min(span.start, side - span.stop)
    assert nearest <= side / 6


@pytest.mark.parametrize(("side", "length"), [(32, 6), (28, 4), (16, 2), (12, 2), (8, 1), (224, 44)])
def test_a_fifth_of_the_side_is_rounded_to_an_even_patch_as_the_authors_do(side: int, length: int) -> None:
    span = patch_span(side, 0.2, torch.Generator(), cut=False)
    assert span.stop - span.start == length


@settings(deadline=None, max_examples=60)
@given(side=st.integers(10, 64), seed=st.integers(0, 99))
def test_a_cut_patch_is_the_authors_box_clipped_to_the_image(side: int, seed: int) -> None:
    cut = patch_span(side, 0.2, torch.Generator().manual_seed(seed), cut=True)
    centres = [c for c in range(side) if not side / 6 < c < side * 5 / 6]
    centre = centres[int(torch.randint(len(centres), (1,), generator=torch.Generator().manual_seed(seed)))]
    reach = int(side * 0.2) // 2
    low, high = np.clip([centre - reach, centre + reach], 0, side)
    assert (cut.start, cut.stop) == (low, high)


def test_cut_patches_are_sometimes_smaller_and_inside_ones_never() -> None:
    sizes = {}
    for cut in (False, True):
        spans = [patch_span(32, 0.2, torch.Generator().manual_seed(seed), cut=cut) for seed in range(40)]
        sizes[cut] = {span.stop - span.start for span in spans}
    assert sizes[False] == {6}
    assert {3, 6} <= sizes[True] <= {3, 4, 5, 6}


def test_the_border_is_set_by_its_setting() -> None:
    areas = {}
    for border in ("inside", "cut"):
        areas[border] = set()
        for seed in range(12):
            queries = make(inputs=["cutmix"], border=border, patch=0.5).extract(VICTIM, DATASET, seed)
            images = DATASET.test.pixels(seeded_indices(len(DATASET.test), 20, seed, "sac/cutmix"))
            changed = queries.tensors["queries_cutmix_NCHW"] != images
            areas[border].add(int(changed.any(dim=1).any(dim=0).sum()))
    assert areas["inside"] == {36}
    assert min(areas["cut"]) < 36


def test_the_patch_visits_both_ends_of_an_axis() -> None:
    spans = [patch_span(32, 0.2, torch.Generator().manual_seed(seed), cut=False) for seed in range(40)]
    starts = {span.start for span in spans}
    assert min(starts) < 6
    assert max(starts) > 20


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_inputs_went_through_pillow_at_the_stated_quality(channels: int) -> None:
    images_NCHW = torch.randint(0, 256, (2, channels, 12, 10), dtype=torch.uint8)
    for image_CHW in images_NCHW:
        buffer = io.BytesIO()
        array = image_CHW.permute(1, 2, 0).squeeze(2).numpy()
        Image.fromarray(array).save(buffer, "JPEG", quality=25)
        decoded = np.asarray(Image.open(buffer), dtype=np.float32).reshape(12, 10, channels) / np.float32(255)
        assert np.array_equal(through_jpeg(image_CHW, 25).permute(1, 2, 0).numpy(), decoded)


def test_the_configured_quality_and_patch_are_used(fingerprint: Fingerprint) -> None:
    other = make(jpeg_quality=90, patch=0.5).extract(VICTIM, DATASET, seed=1).tensors
    assert torch.equal(other["queries_wrong_NCHW"], fingerprint.tensors["queries_wrong_NCHW"])
    best = make(jpeg_quality=95).extract(VICTIM, DATASET, seed=1).tensors["queries_jpeg_NCHW"]
    good, bad = other["queries_jpeg_NCHW"], fingerprint.tensors["queries_jpeg_NCHW"]
    assert (good - best).abs().mean() < 0.5 * (bad - best).abs().mean()
    changed = (other["queries_cutmix_NCHW"] != fingerprint.tensors["queries_cutmix_NCHW"]).any(dim=1)
    assert changed.flatten(1).sum(dim=1).max() >= 32  # a patch of 6 x 6 instead of 2 x 2


def test_a_kind_that_is_left_out_is_neither_made_nor_scored() -> None:
    defense = make(inputs=["jpeg"])
    fingerprint = defense.extract(VICTIM, DATASET, seed=1)
    assert set(fingerprint.tensors) == {"queries_jpeg_NCHW", "logits_jpeg_NK"}
    assert list(defense.verify(fingerprint, tiny_model(5))) == ["jpeg"]


def test_a_suspect_with_other_classes_is_compared_all_the_same(fingerprint: Fingerprint) -> None:
    suspect = tiny_model(5, num_classes=7)
    with torch.no_grad():
        logits_NJ = suspect(fingerprint.tensors["queries_wrong_NCHW"])
    expected = plain_distance(fingerprint.tensors["logits_wrong_NK"], logits_NJ)
    assert make().verify(fingerprint, suspect)["wrong"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_neither_fingerprint_nor_scores_depend_on_the_batch_size(fingerprint: Fingerprint, batch_size: int) -> None:
    defense, suspect = make(batch_size=batch_size), tiny_model(5)
    again = defense.extract(VICTIM, DATASET, seed=1)
    for name, tensor in fingerprint.tensors.items():
        torch.testing.assert_close(again.tensors[name], tensor, rtol=1e-5, atol=1e-5)
    assert defense.verify(fingerprint, suspect) == pytest.approx(make().verify(fingerprint, suspect), abs=1e-5)


def test_scores_do_not_depend_on_the_order_of_the_queries(fingerprint: Fingerprint) -> None:
    tensors = {name: tensor.flip(0) for name, tensor in fingerprint.tensors.items()}
    flipped = Fingerprint(tensors=tensors, metadata=fingerprint.metadata)
    expected = make().verify(fingerprint, tiny_model(5))
    assert make().verify(flipped, tiny_model(5)) == pytest.approx(expected, abs=1e-9)


def test_fewer_inputs_than_asked_for_are_all_used_and_counted() -> None:
    fingerprint = make(num_queries=1000).extract(VICTIM, DATASET, seed=0)
    counts = fingerprint.metadata["num_queries"]
    assert counts["cutmix"] == counts["jpeg"] == len(DATASET.test)
    assert 10 <= counts["wrong"] == len(fingerprint.tensors["logits_wrong_NK"]) < 1000
    assert fingerprint.metadata["num_queries_asked"] == 1000


def test_fewer_than_ten_mistakes_are_refused_unless_that_kind_is_left_out() -> None:
    # a victim that makes three mistakes: the labels are its own answers, but for three test images
    with torch.no_grad():
        right = {name: VICTIM(getattr(DATASET, name).pixels()).argmax(dim=1) for name in ("train", "test")}
    right["test"][:3] = (right["test"][:3] + 1) % 4
    parts = {name: dataclasses.replace(getattr(DATASET, name), labels_N=labels_N) for name, labels_N in right.items()}
    dataset = dataclasses.replace(DATASET, **parts)
    with pytest.raises(UserError, match=r"gets only 3 of the 48 test .* leave 'wrong' out of defense.inputs"):
        make().extract(VICTIM, dataset, seed=0)
    assert list(make(inputs=["cutmix"]).extract(VICTIM, dataset, seed=0).metadata["num_queries"]) == ["cutmix"]


def test_jpeg_of_images_that_are_neither_grey_nor_colour_is_refused() -> None:
    part = dataclasses.replace(DATASET.test, source=TensorSource(torch.zeros(112, 2, 12, 12, dtype=torch.uint8)))
    with pytest.raises(UserError, match="not 2 channels: leave 'jpeg' out"):
        make(inputs=["jpeg"]).extract(VICTIM, dataclasses.replace(DATASET, test=part), seed=0)
