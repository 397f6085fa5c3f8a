"""What all query-based defences rely on: honest logits, seeded choices, a correct sign-gradient search."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rnet.defenses.akh.config import AKHConfig
from rnet.defenses.akh.defense import AKH
from rnet.defenses.base import Defense, Fingerprint
from rnet.defenses.queries import (
    check_suspect,
    is_light,
    linf_pgd,
    logits_of,
    samples_per_chunk,
    seeded_indices,
    train_mode_logits,
    without_onednn,
)
from rnet.defenses.random_queries.config import RandomQueriesConfig
from rnet.defenses.random_queries.defense import RandomQueries
from rnet.defenses.sac.config import SACConfig
from rnet.defenses.sac.defense import SAC
from rnet.errors import UserError
from rnet.figures.models import logits
from tests.defenses.tiny import tiny_dataset, tiny_model, unchanged

PIXELS = tiny_dataset().train.pixels()


class Constant(nn.Module):
    """Returns the given value for every image, whatever the image."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.value.expand(len(x_BCHW), *self.value.shape)


def test_logits_are_those_of_eval_mode_whatever_the_mode_before() -> None:
    model = tiny_model(1)
    expected_NK = model(PIXELS).detach()
    model.train()
    assert not torch.allclose(model(PIXELS), expected_NK, atol=1e-2)
    model = tiny_model(1).train()
    assert torch.equal(logits_of(model, PIXELS), expected_NK)


def test_asking_for_logits_leaves_the_model_as_it_was() -> None:
    model = tiny_model(1).train()
    model.block1.eval()
    model.classifier.bias.requires_grad_(False)
    model(PIXELS).sum().backward()
    with unchanged(model):
        assert not logits_of(model, PIXELS).requires_grad


@pytest.mark.parametrize("batch_size", [1, 7, 48, 1000])
def test_logits_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    torch.testing.assert_close(
        logits_of(tiny_model(1), PIXELS, batch_size), logits_of(tiny_model(1), PIXELS), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    "defense", [RandomQueries(RandomQueriesConfig(num_queries=40)), SAC(SACConfig()), AKH(AKHConfig()), None]
)
def test_large_images_are_sent_to_a_model_in_small_batches(defense: Defense | None) -> None:
    dataset, seen = tiny_dataset(image_size=256, train=1, substitute=1), []
    model = tiny_model(1)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    if defense is None:
        logits(model, dataset.test.pixels())
    else:
        fingerprint = defense.extract(model, dataset, seed=1)
        assert seen
        defense.verify(fingerprint, model)
    assert max(seen) == 16


def test_logits_are_float32_for_a_model_in_double_precision() -> None:
    assert logits_of(Constant(torch.ones(3, dtype=torch.float64)), PIXELS).dtype == torch.float32


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_logits_are_reported_with_their_number_and_leave_the_model_as_it_was(bad: float) -> None:
    class Broken(nn.Module):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            logits_BK = x_BCHW.mean(dim=(2, 3))
            logits_BK[1, 0] = bad
            return logits_BK

    model = Broken().train()
    with pytest.raises(UserError, match="suspect Broken returns non-finite logits for 2 of 48 queries"):
        logits_of(model, PIXELS, 24)
    assert model.training
    with pytest.raises(UserError, match="victim Broken"):
        logits_of(model, PIXELS, role="victim")


@pytest.mark.parametrize("value", [torch.ones(()), torch.ones(3, 2)])
def test_a_model_that_is_no_classifier_is_refused(value: Tensor) -> None:
    with pytest.raises(UserError, match="a classifier must return a tensor of shape"):
        logits_of(Constant(value), PIXELS)


def test_a_model_that_returns_a_tuple_is_refused() -> None:
    class Pair(nn.Module):
        def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
            return x_BCHW, x_BCHW

    with pytest.raises(UserError, match="returns tuple for 48 images"):
        logits_of(Pair(), PIXELS)


def test_a_suspect_with_another_number_of_classes_is_refused_and_zest_is_named() -> None:
    fingerprint = Fingerprint(tensors={}, metadata={"num_classes": 4})
    check_suspect(fingerprint, torch.zeros(2, 4))
    with pytest.raises(UserError, match=r"suspect has 5 classes .* victim has 4.*zest"):
        check_suspect(fingerprint, torch.zeros(2, 5))


def test_train_mode_logits_use_batch_statistics_and_dropout_but_leave_no_trace() -> None:
    model = tiny_model(1)
    with unchanged(model):
        train_NK = train_mode_logits(model, PIXELS, seed=3)
    assert not torch.allclose(train_NK, logits_of(model, PIXELS), atol=0.1)
    assert torch.equal(train_NK, train_mode_logits(model, PIXELS, seed=3))
    assert not torch.equal(train_NK, train_mode_logits(model, PIXELS, seed=4))
    assert not torch.allclose(train_NK[:8], train_mode_logits(model, PIXELS[:8], seed=3), atol=0.1)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(0, 40), share=st.floats(0, 1), seed=st.integers(0, 2**40))
def test_seeded_indices_are_distinct_and_in_range(n: int, share: float, seed: int) -> None:
    count = int(share * n)
    indices = seeded_indices(n, count, seed, "images").tolist()
    assert len(indices) == len(set(indices)) == count
    assert set(indices) <= set(range(n))


def test_seeded_indices_are_a_function_of_seed_and_purpose() -> None:
    state = torch.get_rng_state()
    chosen = seeded_indices(1000, 20, 5, "images").tolist()
    assert chosen == seeded_indices(1000, 20, 5, "images").tolist()
    assert chosen != seeded_indices(1000, 20, 6, "images").tolist()
    assert chosen != seeded_indices(1000, 20, 5, "masks").tolist()
    assert torch.equal(torch.get_rng_state(), state)


def test_seeded_indices_reach_every_position() -> None:
    assert {int(seeded_indices(10, 1, seed, "images")) for seed in range(200)} == set(range(10))


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    radius=st.one_of(st.none(), st.floats(0, 0.5)),
    step=st.floats(0.001, 0.3),
    steps=st.integers(0, 6),
    maximise=st.booleans(),
    started=st.booleans(),
)
def test_sign_gradient_search_follows_its_definition_pixel_by_pixel(
    seed: int, radius: float | None, step: float, steps: int, maximise: bool, started: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, centre, weight = (torch.rand(2, 1, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    start = x + torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5 if started else None
    found = linf_pgd(
        lambda q: ((q - centre) ** 2 * weight).sum(),
        x,
        step=step,
        steps=steps,
        radius=radius,
        start=start,
        maximise=maximise,
    )
    for index in range(x.numel()):
        origin, c, w = (float(t.flatten()[index]) for t in (x, centre, weight))

        def project(value: float, origin: float = origin) -> float:
            if radius is not None:
                value = min(max(value, origin - radius), origin + radius)
            return min(max(value, 0.0), 1.0)

        value = project(origin if start is None else float(start.flatten()[index]))
        for _ in range(steps):
            slope = 2 * (value - c) * w
            sign = (slope > 0) - (slope < 0)
            value = project(value + (step if maximise else -step) * sign)
        assert float(found.flatten()[index]) == pytest.approx(value, abs=1e-12)


def test_sign_gradient_search_takes_sizes_per_channel() -> None:
    x_NCHW = torch.full((2, 3, 4, 4), 0.5)
    radius_C11 = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    found = linf_pgd(lambda q: q.sum(), x_NCHW, step=radius_C11 / 4, steps=9, radius=radius_C11, start=None)
    torch.testing.assert_close(found, x_NCHW + radius_C11)


def test_sign_gradient_search_writes_to_nothing_it_was_given() -> None:
    model, start = tiny_model(2).requires_grad_(False), PIXELS + 0.01
    x_NCHW, kept = PIXELS.clone(), start.clone()
    with unchanged(model), torch.no_grad():
        found = linf_pgd(lambda q: model(q).sum(), x_NCHW, step=0.1, steps=2, radius=None, start=start)
    assert torch.equal(x_NCHW, PIXELS)
    assert torch.equal(start, kept)
    assert not x_NCHW.requires_grad
    assert not start.requires_grad
    assert not found.requires_grad


def test_chunk_size_follows_from_the_bytes_kept_for_the_backward_pass() -> None:
    class Sigmoids(nn.Module):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            return x_BCHW.sigmoid().sigmoid().sum(dim=(2, 3))  # each keeps its output

    per_image = 2 * (2 * 3 * 8 * 8 * 4)  # two outputs, float32, twice for gradients and working space
    assert samples_per_chunk(Sigmoids(), PIXELS, 1) == 2**20 // per_image
    assert samples_per_chunk(Sigmoids(), PIXELS, 3) == 3 * 2**20 // per_image


def test_chunk_size_ignores_parameters_and_is_never_below_one() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 100_000, bias=False), nn.Sigmoid())  # 73 MiB of weights
    assert samples_per_chunk(linear, PIXELS, 2) == 2 * 2**20 // (2 * 400_000)
    assert samples_per_chunk(nn.Sequential(linear, nn.Sigmoid(), nn.Sigmoid()), PIXELS, 1) == 1


def test_measuring_the_chunk_size_leaves_the_model_as_it_was() -> None:
    model = tiny_model(1).train()
    with unchanged(model), torch.no_grad():
        samples_per_chunk(model, PIXELS, 16)


@pytest.mark.parametrize(
    ("shape", "light", "expected"),
    [((10, 3, 16, 16), True, False), ((11, 3, 16, 16), True, True), ((2, 3, 16, 16), False, True)],
)
def test_few_small_images_of_a_light_model_go_without_onednn(
    shape: tuple[int, ...], light: bool, expected: bool
) -> None:
    seen = []

    def convolve() -> None:
        with without_onednn(torch.rand(shape), light):
            seen.append(torch.backends.mkldnn.enabled)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        convolve()
    assert seen == [expected]
    assert torch.backends.mkldnn.enabled


def test_what_the_user_switched_off_stays_off() -> None:
    torch.backends.mkldnn.enabled = False
    try:
        with without_onednn(torch.rand(11, 3, 16, 16), light=True):
            assert not torch.backends.mkldnn.enabled
        assert not torch.backends.mkldnn.enabled
    finally:
        torch.backends.mkldnn.enabled = True


def test_a_model_is_light_up_to_a_million_weights() -> None:
    assert is_light(nn.Linear(999, 1000))
    assert not is_light(nn.Linear(1000, 1000))
