"""Which image belongs to which part: disjoint by construction, decided by a seed and the sizes alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    """

    train_N: Tensor
    substitute_N: Tensor
    test_N: Tensor


def split_positions(
    num_train: int,
    num_test: int | None,
    *,
    substitute_pool: int,
    train_size: int | None,
    test_size: int | None,
    seed: int,
) -> SplitPositions:
    """The parts of num_train training images and num_test official test images (None: the test is split off).

    Each part is cut out of one seeded permutation: a smaller train_size or test_size keeps a prefix, and the pool is
    taken from the end, so that training images cut by train_size do not depend on the size of the pool.
    Raises UserError if the sizes exceed what is there or leave the victim without an image.
    """
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
    train_groups_N: Tensor,
    test_groups_N: Tensor,
    num_test: int | None,
    *,
    substitute_pool: int,
    train_size: int | None,
    test_size: int | None,
    seed: int,
) -> SplitPositions:
    """split_positions with equal images in one part: each part takes whole groups, in seeded order, while they fit.

    train_groups_N, test_groups_N: int64, equal for equal images (see duplicates.py). Training images that are equal to
    an official test image are left out. Raises UserError as split_positions does.
    """
    kept_N = torch.arange(len(train_groups_N))
    if num_test is not None:
        kept_N = kept_N[~torch.isin(train_groups_N, test_groups_N)]
    split = split_positions(
        len(kept_N), num_test, substitute_pool=substitute_pool, train_size=train_size, test_size=test_size, seed=seed
    )
    groups_N = train_groups_N[kept_N]
    sizes = {"train": len(split.train_N), "substitute": len(split.substitute_N)}
    in_order = [split.train_N, split.substitute_N]
    if num_test is None:
        sizes, in_order = {"test": len(split.test_N), **sizes}, [split.test_N, *in_order]
    members: dict[int, list[int]] = {}
    rest = torch.tensor(sorted({*range(len(kept_N))} - {*torch.cat(in_order).tolist()}), dtype=torch.int64)
    for position in torch.cat([*in_order, rest]).tolist():
        members.setdefault(int(groups_N[position]), []).append(position)
    waiting = list(members.values())
    parts: dict[str, Tensor] = {}
    for part, size in sizes.items():
        taken, waiting = _whole_groups(waiting, size)
        if len(taken) < size:
            raise UserError(
                f"dataset.duplicates=together fills the {part} part with {len(taken)} images instead of {size}, as the "
                f"groups of equal images do not fit; change the sizes, or remove copies"
            )
        parts[part] = kept_N[torch.tensor(taken, dtype=torch.int64)]
    return SplitPositions(
        train_N=parts["train"], substitute_N=parts["substitute"], test_N=parts.get("test", split.test_N)
    )


def _whole_groups(groups: list[list[int]], size: int) -> tuple[list[int], list[list[int]]]:
    """The members of the first groups that together have `size` members, and the groups that are left over."""
    taken: list[int] = []
    left: list[list[int]] = []
    for group in groups:
        if len(taken) + len(group) <= size:
            taken += group
        else:
            left.append(group)
    return taken, left


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
