"""The counter-based draws against known answers, a plain-integer Philox, and the statistics they promise."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnet import draws
from rnet.errors import UserError
from rnet.kernels import philox

U32 = st.integers(0, 2**32 - 1)
SEED = st.integers(-(2**40), 2**70)


def philox_in_plain_integers(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 written from the paper with Python integers, one block."""
    c, k = list(counter), list(key)
    for _ in range(10):
        left, right = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(right >> 32) ^ c[1] ^ k[0], right % 2**32, (left >> 32) ^ c[3] ^ k[1], left % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def one_block(counter: list[int], key: list[int]) -> list[int]:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in counter)
    return [int(word) for word in philox.philox4x32((c0, c1, c2, c3), (key[0], key[1]))]


# The known-answer vectors of the Random123 distribution (kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_known_answers(counter: str, key: str, answer: str) -> None:
    words = [[int(word, 16) for word in text.split()] for text in (counter, key, answer)]
    assert one_block(words[0], words[1]) == words[2]


@given(st.lists(U32, min_size=4, max_size=4), st.lists(U32, min_size=2, max_size=2))
@settings(deadline=None, max_examples=50)
def test_philox_equals_the_plain_integer_version(counter: list[int], key: list[int]) -> None:
    assert one_block(counter, key) == philox_in_plain_integers(counter, key)


@given(SEED, st.text(max_size=8), U32, st.integers(0, 2**63 - 1), st.integers(1, 11))
@settings(deadline=None, max_examples=30)
def test_uniform_places_the_words_of_the_documented_counters(
    seed: int, purpose: str, step: int, sample: int, count: int
) -> None:
    key = draws._hash64(seed, purpose)
    expected: list[float] = []
    for block in range(3):
        words = philox_in_plain_integers([block, sample % 2**32, sample >> 32, step], [key % 2**32, key >> 32])
        expected += [(word >> 8) / 2**24 for word in words]
    drawn = draws.uniform(seed, purpose, step, torch.tensor([5, sample]), count, device="cpu")
    assert drawn.shape == (2, count)
    assert drawn.dtype == torch.float32
    assert drawn[1].tolist() == expected[:count]


def test_uniform_is_flat_on_the_half_open_unit_interval() -> None:
    drawn = draws.uniform(0, "test", 3, torch.arange(200), 1000, device="cpu").double()
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    assert abs(drawn.mean().item() - 1 / 2) < 4 * (1 / 12 / 200_000) ** 0.5
    assert abs(drawn.var().item() - 1 / 12) < 4 * (1 / 180 / 200_000) ** 0.5
    correlation = torch.corrcoef(torch.stack([drawn[:-1].flatten(), drawn[1:].flatten()]))[0, 1]
    assert abs(correlation.item()) < 4 / 199_000**0.5


def test_the_largest_draw_stays_below_one_in_float32() -> None:
    largest = torch.tensor([2**32 - 1]) >> 8
    assert (largest.float() * 2.0**-24).item() == 1 - 2.0**-24


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=9, unique=True), st.data())
@settings(deadline=None, max_examples=20)
def test_draws_of_a_sample_do_not_depend_on_the_batch_it_is_in(samples: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(samples)))
    ids = torch.tensor(samples)
    together = draws.uniform(7, "split", 2, ids, 10, device="cpu")
    apart = [draws.uniform(7, "split", 2, part, 10, device="cpu") for part in (ids[:cut], ids[cut:])]
    assert torch.equal(together, torch.cat(apart))
    perm = draws.channel_permutations(7, "split", 2, ids, 3, 9, 0.5, device="cpu")
    perms = [
        draws.channel_permutations(7, "split", 2, part, 3, 9, 0.5, device="cpu") for part in (ids[:cut], ids[cut:])
    ]
    assert torch.equal(perm, torch.cat(perms, dim=1))


def test_working_in_pieces_changes_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.arange(13)
    whole = draws.uniform(1, "pieces", 0, ids, 103, device="cpu")
    for at_once in (1, 7, 40):
        monkeypatch.setattr(philox, "_CPU_COUNTERS", at_once)
        assert torch.equal(draws.uniform(1, "pieces", 0, ids, 103, device="cpu"), whole)


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    ids = torch.arange(3)
    assert torch.equal(
        draws.uniform(1, "a", 0, ids, 50, device="cpu")[:, :17], draws.uniform(1, "a", 0, ids, 17, device="cpu")
    )


def test_seed_purpose_step_and_sample_each_give_another_stream() -> None:
    streams = [
        draws.uniform(seed, purpose, step, torch.tensor([sample]), 8, device="cpu")
        for seed, purpose, step, sample in [
            (0, "a", 0, 0),
            (1, "a", 0, 0),
            (0, "b", 0, 0),
            (0, "a", 1, 0),
            (0, "a", 0, 1),
        ]
    ]
    streams.append(draws.uniform(0, "a", 0, torch.tensor([2**32]), 8, device="cpu"))
    assert len({tuple(stream.flatten().tolist()) for stream in streams}) == len(streams)


def test_no_samples_and_no_elements_are_fine() -> None:
    assert draws.uniform(0, "a", 0, torch.arange(0), 5, device="cpu").shape == (0, 5)
    assert draws.uniform(0, "a", 0, torch.arange(4), 0, device="cpu").shape == (4, 0)
    assert draws.channel_permutations(0, "a", 0, torch.arange(0), 2, 6, 1.0, device="cpu").shape == (2, 0, 6)


def test_a_step_beyond_the_counter_is_refused() -> None:
    with pytest.raises(UserError, match="step=4294967296"):
        draws.uniform(0, "a", 2**32, torch.arange(2), 4, device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_draws_the_bits_of_the_cpu() -> None:
    ids = torch.tensor([0, 3, 2**35 + 1, 12])
    for count in (1, 1001):
        here, there = (draws.uniform(5, "device", 9, ids, count, device=device) for device in ("cpu", "cuda"))
        assert torch.equal(here, there.cpu())
    for rho in (0.1, 1.0):
        perms = [draws.channel_permutations(5, "p", 9, ids, 21, 513, rho, device=device) for device in ("cpu", "cuda")]
        assert torch.equal(perms[0], perms[1].cpu())


def test_derived_seeds_are_pinned_across_versions() -> None:
    assert draws.derive_seed(3, "order", 7) == 8085160958171598185


def test_derived_seeds_tell_types_and_boundaries_apart() -> None:
    purposes: list[tuple[str | int, ...]] = [("a", "b"), ("ab",), ("a,b",), (1,), ("1",), (1, 1), (11,), (), ("b", "a")]
    seeds = [draws.derive_seed(0, *purpose) for purpose in purposes] + [draws.derive_seed(1)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("rho", "channels", "moved"),
    [
        (0.02, 50, 1),
        (0.02, 51, 2),
        (0.1, 31, 4),
        (0.02, 128, 3),
        (0.1, 30, 3),
        (0.2, 64, 13),
        (0.07, 100, 7),
        (1.0, 6, 6),
        (0.0, 9, 0),
        (1e-3, 5, 1),
    ],
)
def test_at_most_the_rounded_up_share_of_channels_moves_and_it_is_reached(
    rho: float, channels: int, moved: int
) -> None:
    perm_ABC = draws.channel_permutations(0, "share", 0, torch.arange(64), 20, channels, rho, device="cpu")
    displaced = (perm_ABC != torch.arange(channels)).sum(dim=-1)
    assert displaced.max().item() == (moved if moved > 1 else 0)
    assert displaced.max() <= moved
    assert displaced.min().item() == 0 or moved > 5  # fixed points are allowed: the identity occurs


def test_every_row_is_a_permutation() -> None:
    perm_ABC = draws.channel_permutations(1, "valid", 4, torch.arange(10), 5, 37, 0.3, device="cpu")
    assert perm_ABC.shape == (5, 10, 37)
    assert perm_ABC.dtype == torch.int64
    assert torch.equal(perm_ABC.sort(dim=-1).values, torch.arange(37).expand(5, 10, 37))


@pytest.mark.parametrize(("rho", "channels", "moved"), [(1.0, 3, 3), (0.5, 4, 2), (0.6, 5, 3)])
def test_every_subset_and_every_order_of_it_is_equally_likely(rho: float, channels: int, moved: int) -> None:
    total = 24_000
    perm_ABC = draws.channel_permutations(2, "flat", 0, torch.arange(total // 4), 4, channels, rho, device="cpu")
    seen = Counter(map(tuple, perm_ABC.reshape(-1, channels).tolist()))
    # Expected share of each permutation, by enumerating all subsets and all orders of each.
    expected: Counter[tuple[int, ...]] = Counter()
    for ordered in permutations(range(channels), moved):
        row = list(range(channels))
        for place, source in zip(sorted(ordered), ordered, strict=True):
            row[place] = source
        expected[tuple(row)] += 1
    scale = total / sum(expected.values())
    assert set(seen) == set(expected)
    chi_square = sum((seen[row] - scale * number) ** 2 / (scale * number) for row, number in expected.items())
    freedom = len(expected) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


@given(SEED, st.integers(0, 2**40), st.integers(2, 7), st.floats(0.2, 1.0))
@settings(deadline=None, max_examples=20)
def test_the_chosen_channels_take_their_places_in_the_order_of_their_words(
    seed: int, sample: int, channels: int, rho: float
) -> None:
    key, moved, words = draws._hash64(seed, "order"), math.ceil(rho * channels - 1e-9), []
    for block in range(3 * channels):
        words += philox_in_plain_integers([block, sample % 2**32, sample >> 32, 6], [key % 2**32, key >> 32])
    perm_A1C = draws.channel_permutations(seed, "order", 6, torch.tensor([sample]), 3, channels, rho, device="cpu")
    for call in range(3):
        own = words[call * channels : (call + 1) * channels]
        chosen = sorted(range(channels), key=lambda channel: (own[channel], channel))[:moved]
        expected = list(range(channels))
        for place, source in zip(sorted(chosen), chosen, strict=True):
            expected[place] = source
        assert perm_A1C[call, 0].tolist() == expected


def test_calls_and_samples_draw_different_permutations() -> None:
    perm_ABC = draws.channel_permutations(3, "own", 0, torch.arange(6), 7, 40, 1.0, device="cpu")
    assert len({tuple(row) for row in perm_ABC.view(-1, 40).tolist()}) == 42


@pytest.mark.parametrize("rho", [-0.1, 1.5, float("nan")])
def test_a_share_outside_zero_to_one_is_refused(rho: float) -> None:
    with pytest.raises(UserError, match=r"rho=.*from 0 to 1"):
        draws.channel_permutations(0, "a", 0, torch.arange(2), 1, 8, rho, device="cpu")
