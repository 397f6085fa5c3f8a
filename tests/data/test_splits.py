"""Splits: disjoint parts, decided by the seed and the sizes alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnet.data.images import Dataset, Part
from rnet.data.splits import SplitPositions, SplitSizes, seeded_permutation, split_positions, substitute_subset
from rnet.errors import UserError


def split(num_train: int = 100, num_test: int | None = 40, **changes: int | None) -> SplitPositions:
    sizes: dict[str, int | None] = {"substitute_pool": 20, "train_size": None, "test_size": None, "seed": 0}
    return split_positions(num_train, num_test, SplitSizes(**{**sizes, **changes}))  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(num_train=st.integers(2, 300), pool_share=st.floats(0, 1), official=st.booleans(), seed=st.integers(0, 2**40))
def test_parts_share_no_image_and_leave_none_out(num_train: int, pool_share: float, official: bool, seed: int) -> None:
    test_size = None if official else max(1, num_train // 3)
    available = num_train - (test_size or 0)
    parts = split(
        num_train,
        17 if official else None,
        substitute_pool=int(pool_share * (available - 1)),
        test_size=test_size,
        seed=seed,
    )
    of_train_source = [*parts.train_N.tolist(), *parts.substitute_N.tolist()]
    if official:
        assert sorted(parts.test_N.tolist()) == list(range(17))
    else:
        assert len(parts.test_N) == test_size
        of_train_source += parts.test_N.tolist()
    assert sorted(of_train_source) == list(range(num_train))
    assert len(parts.substitute_N) == int(pool_share * (available - 1))


@pytest.mark.parametrize("num_test", [40, None])
def test_the_same_seed_gives_the_same_parts_and_another_seed_others(num_test: int | None) -> None:
    first, again, other = split(num_test=num_test), split(num_test=num_test), split(num_test=num_test, seed=1)
    for name in ("train_N", "substitute_N", "test_N"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_splitting_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    split()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fifth_is_split_off_where_there_is_no_official_test() -> None:
    assert len(split(1797, None).test_N) == 360


def test_a_smaller_size_keeps_a_prefix() -> None:
    whole, capped = split(), split(train_size=30, test_size=7)
    assert torch.equal(capped.train_N, whole.train_N[:30])
    assert torch.equal(capped.test_N, whole.test_N[:7])


def test_training_images_capped_by_train_size_do_not_depend_on_the_pool() -> None:
    assert torch.equal(split(train_size=30, substitute_pool=10).train_N, split(train_size=30).train_N)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"substitute_pool": 100}, r"substitute_pool=100 leaves none of the 100 .* at most 99"),
        ({"substitute_pool": 80, "num_test": None}, r"substitute_pool=80 leaves none of the 80 .*test_size"),
        ({"train_size": 81}, r"train_size=81 is larger than the 80 images .* 100 .*substitute_pool=20"),
        ({"test_size": 41}, r"test_size=41 is larger than the 40 test images"),
        ({"test_size": 100, "num_test": None}, r"test_size=100 takes all of the 100 images"),
    ],
)
def test_sizes_beyond_what_is_there_are_refused_with_the_numbers(changes: dict[str, int | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split(**changes)  # type: ignore[arg-type]


@pytest.fixture
def dataset(make_part) -> Dataset:  # type: ignore[no-untyped-def]
    whole: Part = make_part(60)
    train, substitute, test = (whole.subset(i) for i in seeded_permutation(60, 0).split([20, 30, 10]))
    return Dataset(
        name="tiny",
        num_classes=3,
        channels=1,
        image_size=4,
        mean_C=(0.5,),
        std_C=(0.5,),
        flip=False,
        train=train,
        substitute=substitute,
        test=test,
    )


def test_a_substitute_subset_has_distinct_images_of_the_pool_with_their_labels(dataset: Dataset) -> None:
    subset = substitute_subset(dataset, 12, seed=3)
    positions = subset.positions_N.tolist()
    assert len(set(positions)) == 12
    assert set(positions) <= set(dataset.substitute.positions_N.tolist())
    assert subset.labels_N.tolist() == [position % 3 for position in positions]


def test_a_smaller_substitute_subset_is_a_prefix_and_another_seed_draws_another(dataset: Dataset) -> None:
    large, small = substitute_subset(dataset, 30, seed=3), substitute_subset(dataset, 7, seed=3)
    assert torch.equal(small.positions_N, large.positions_N[:7])
    assert not torch.equal(large.positions_N, substitute_subset(dataset, 30, seed=4).positions_N)


def test_a_substitute_subset_larger_than_the_pool_is_refused(dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"substitute_size=31 is larger than the 30 .*substitute_pool=31"):
        substitute_subset(dataset, 31, seed=0)
    with pytest.raises(UserError, match="substitute_size=0 must be 1 or more"):
        substitute_subset(dataset, 0, seed=0)
