"""Which image belongs to which part: disjoint by construction, decided by a seed and the sizes alone."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from rnet.data.config import DatasetConfig
from rnet.data.images import Dataset, Part
from rnet.draws import derive_seed
from rnet.errors import UserError

# One image in so many is for the test where a dataset has no test images of its own.
_TEST_ONE_IN = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class SplitPositions:
    """int64 CPU positions of the three parts.

    train_N and substitute_N are positions in the training source; test_N in the test source, or in the training source
    where there is no other. They come in seeded random order, so that a prefix of a part is a random sample of it.
    left_out: how many images are in no part because others of their group are in one.
    """

    train_N: Tensor
    substitute_N: Tensor
    test_N: Tensor
    left_out: int = 0


@dataclass(frozen=True, kw_only=True)
class SplitSizes:
    """How large the parts are, and the seed that decides; as the settings of these names say."""

    substitute_pool: int
    train_size: int | None = None
    test_size: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, config: DatasetConfig) -> SplitSizes:
        """As a configuration says."""
        return cls(
            substitute_pool=config.substitute_pool, train_size=config.train_size, test_size=config.test_size,
            seed=config.split_seed,
        )  # fmt: skip


def split_positions(num_train: int, num_test: int | None, sizes: SplitSizes) -> SplitPositions:
    """The parts of num_train training images and num_test official test images (None: the test is split off).

    Each part is cut out of one seeded permutation: a smaller train_size or test_size keeps a prefix, and the pool is
    taken from the end, so that training images cut by train_size do not depend on the size of the pool.
    Raises UserError if the sizes exceed what is there or leave the victim without an image.
    """
    substitute_pool, train_size, test_size, seed = astuple(sizes)
    order_N = seeded_permutation(num_train, seed, "train images")
    if num_test is None:
        wanted = -(-num_train // _TEST_ONE_IN) if test_size is None else test_size
        if wanted >= num_train:
            raise UserError(
                f"dataset.test_size={wanted} takes all of the {num_train} images of this dataset, which has no test "
                f"images of its own; lower it"
            )
        test_N, order_N = order_N[:wanted], order_N[wanted:]
    else:
        if test_size is not None and test_size > num_test:
            raise UserError(f"dataset.test_size={test_size} is larger than the {num_test} test images; lower it")
        test_N = seeded_permutation(num_test, seed, "test images")[:test_size]
    available = len(order_N)
    left = available - substitute_pool
    if left < 1:
        raise UserError(
            f"dataset.substitute_pool={substitute_pool} leaves none of the {available} training images for the "
            f"victim; lower it to at most {available - 1}" + (" or lower dataset.test_size" if num_test is None else "")
        )
    if train_size is not None and train_size > left:
        raise UserError(
            f"dataset.train_size={train_size} is larger than the {left} images that remain of {available} training "
            f"images after dataset.substitute_pool={substitute_pool}; lower one of the two"
        )
    return SplitPositions(train_N=order_N[:left][:train_size], substitute_N=order_N[left:], test_N=test_N)


def split_by_groups(
    train_groups_N: Tensor, test_groups_N: Tensor, num_test: int | None, sizes: SplitSizes, *, called: str = "group"
) -> SplitPositions:
    """split_positions with the images of a group in one part: each part takes whole groups, in seeded order.

    train_groups_N, test_groups_N: int64, equal for images that stay together. Training images of the groups of official
    test images are left out. A part whose size is set takes of one group only what still fits; the rest of that group
    is in no part. called: what a group is, for messages. Raises UserError for sizes that do not fit.
    """
    kept_N = torch.arange(len(train_groups_N))
    if num_test is not None:
        kept_N = kept_N[~torch.isin(train_groups_N, test_groups_N)]
        if len(kept_N) < 2:
            raise UserError(f"all but {len(kept_N)} of {len(train_groups_N)} training images are of a {called} that "
                            f"the test images show, too; another split of the files is needed")  # fmt: skip
    split = split_positions(len(kept_N), num_test, sizes)
    in_order = [split.train_N, split.substitute_N]
    if num_test is None:
        in_order.insert(0, split.test_N)
    rest_N = torch.ones(len(kept_N), dtype=torch.bool).index_fill_(0, torch.cat(in_order), False).nonzero()[:, 0]
    groups = train_groups_N[kept_N].tolist()
    members: dict[int, list[int]] = {}
    for position in torch.cat([*in_order, rest_N]).tolist():
        members.setdefault(groups[position], []).append(position)
    waiting = list(members.values())
    test_N = split.test_N
    if num_test is None:
        taken, waiting = _fill(waiting, len(test_N))
        test_N = kept_N[taken]
    left = sum(map(len, waiting)) - sizes.substitute_pool
    train_N, waiting = _fill(waiting, max(0, min(left, sizes.train_size or left)), cut=sizes.train_size is not None)
    substitute_N, waiting = _fill(waiting, sizes.substitute_pool)
    if len(train_N) < (sizes.train_size or 1) or len(substitute_N) < sizes.substitute_pool:
        largest = max(map(len, members.values()))
        raise UserError(
            f"{len(members):,} groups of {len(kept_N):,} images, the largest of {largest:,}, cannot be divided into "
            f"{len(test_N):,} test, {sizes.train_size or 'some'} training and {sizes.substitute_pool:,} substitute "
            f"images with every {called} in one part; lower dataset.test_size, dataset.train_size or "
            f"dataset.substitute_pool"
        )
    used = len(train_N) + len(substitute_N) + (len(test_N) if num_test is None else 0)
    unused = 0 if sizes.train_size is not None else len(train_groups_N) - used
    return SplitPositions(train_N=kept_N[train_N], substitute_N=kept_N[substitute_N], test_N=test_N, left_out=unused)


def _fill(groups: list[list[int]], size: int, *, cut: bool = True) -> tuple[Tensor, list[list[int]]]:
    """The members of the first groups that together have `size` members, and the groups that are left over.

    cut: where none of the others fits, the smallest of them is cut, and what is cut off is lost.
    """
    taken: list[int] = []
    left: list[list[int]] = []
    for group in groups:
        if len(taken) + len(group) <= size:
            taken += group
        else:
            left.append(group)
    if cut and left and len(taken) < size:
        smallest = min(range(len(left)), key=lambda place: len(left[place]))
        taken += left.pop(smallest)[: size - len(taken)]
    return torch.tensor(taken, dtype=torch.int64), left


def substitute_subset(dataset: Dataset, count: int, seed: int) -> Part:
    """`count` images of the attacker's pool, drawn with the seed, without replacement.

    With one seed a smaller count is a prefix of a larger one. Raises UserError if the pool holds fewer.
    """
    pool = dataset.substitute
    if count < 1:
        raise UserError(f"attack.substitute_size={count} must be 1 or more")
    if count > len(pool):
        raise UserError(
            f"attack.substitute_size={count} is larger than the {len(pool)} images that dataset.substitute_pool "
            f"reserves for the attacker; lower it or set dataset.substitute_pool={count}"
        )
    return pool.subset(seeded_permutation(len(pool), seed, "substitute subset")[:count])


def seeded_permutation(n: int, seed: int, *purpose: str | int) -> Tensor:
    """A uniformly random int64 CPU permutation of 0..n-1, a function of its arguments only."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(seed, *purpose)))
