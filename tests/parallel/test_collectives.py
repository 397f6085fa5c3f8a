"""What two real processes tell each other, and what one process does without asking anyone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from rnet.parallel.collectives import (
    any_rank,
    gather_objects,
    gather_rows,
    map_rows,
    rank,
    same_on_all,
    sum_over_ranks,
    world_size,
)
from tests.parallel.two_ranks import failures


def _sums(this: int) -> None:
    assert (rank(), world_size()) == (this, 2)
    value = torch.tensor([1.0, 10.0]) * (this + 1)
    assert sum_over_ranks(value).tolist() == [3.0, 30.0]
    assert value.tolist() == [this + 1, 10.0 * (this + 1)], "the argument is left alone"


def _rows(this: int) -> None:
    rows = torch.arange(6).view(3, 2) + 100 * this
    assert gather_rows(rows).tolist() == [[0, 1], [2, 3], [4, 5], [100, 101], [102, 103], [104, 105]]


def _objects(this: int) -> None:
    assert gather_objects({"rank": this, "size": "x" * this}) == [{"rank": 0, "size": ""}, {"rank": 1, "size": "x"}]
    assert same_on_all(["from", this]) == ["from", 0]


def _flags(this: int) -> None:
    assert any_rank(this == 1)
    assert not any_rank(False)


def _shares(this: int, count: int) -> None:
    """Uneven shares neither hang nor lose, repeat or reorder a row, and each process does half of the work."""
    done = 0

    def work(values_N: Tensor, scale_N: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal done
        done += len(values_N)
        assert gather_rows(torch.tensor([len(values_N)])).unique().numel() == 1, "collectives inside must match"
        return values_N * scale_N, torch.stack([values_N, values_N + 1], dim=1)

    values_N = torch.arange(count, dtype=torch.float32)
    products, pairs = map_rows(work, values_N, torch.full((count,), 3.0))
    assert products.tolist() == [3.0 * n for n in range(count)]
    assert pairs.tolist() == [[n, n + 1] for n in range(count)]
    assert done == -(-count // 2)


CASES: dict[str, Callable[[int], None]] = {
    "sums": _sums,
    "rows": _rows,
    "objects": _objects,
    "flags": _flags,
    **{f"shares of {count}": partial(_shares, count=count) for count in (1, 2, 5, 8)},
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return failures(CASES, tmp_path_factory.mktemp("collectives"))


@pytest.mark.parametrize("case", CASES)
def test_two_processes(case: str, failed: dict[str, str]) -> None:
    assert case not in failed, failed[case]


def test_one_process_calls_the_function_as_it_is() -> None:
    given = torch.arange(5)
    assert map_rows(lambda rows: rows, given) is given
    assert gather_rows(given) is given
    assert sum_over_ranks(given) is given
    assert gather_objects(3) == [3]
    assert (rank(), world_size()) == (0, 1)


def test_nothing_to_share_is_nothing() -> None:
    assert map_rows(lambda rows: rows, torch.zeros(0, 2)).shape == (0, 2)
