"""What two real processes tell each other, and what one process does without asking anyone."""

from __future__ import annotations

import hmac
import math
import os
import pickle
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from rnet.errors import UserError
from rnet.parallel.collectives import (
    any_rank,
    gather_ragged_rows,
    gather_rows,
    gather_values,
    map_rows,
    rank,
    same_on_all,
    same_tensor_on_all,
    sum_over_ranks,
    world_size,
)
from rnet.parallel.peers import require_peers
from tests.bomb import Bomb
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
    assert gather_values({"rank": this, "size": "x" * this}) == [{"rank": 0, "size": ""}, {"rank": 1, "size": "x"}]
    plain = [None, True, 2**70, 0.1, "\ud800\u00e9"]
    assert same_on_all(["from", this, plain]) == ["from", 0, plain]
    assert math.isnan(same_on_all({"a": {"b": math.nan}})["a"]["b"])
    assert same_on_all([-math.inf, -0.0]) == [-math.inf, 0.0]


def _tensors(this: int) -> None:
    for dtype in (torch.bool, torch.int64, torch.bfloat16, torch.float32):
        for shape in ((), (0, 3), (2, 3)):
            found = same_tensor_on_all(torch.full(shape, this + 1, dtype=dtype) if this == 0 else None)
            assert found.dtype == dtype
            assert torch.equal(found, torch.ones(shape, dtype=dtype))
    mine = torch.full((3,), float(this))
    assert same_tensor_on_all(mine).tolist() == [0.0, 0.0, 0.0]
    assert mine.tolist() == [this] * 3, "the argument is left alone"


def _ragged(this: int) -> None:
    assert gather_ragged_rows(torch.full((2 * this, 2), this)).tolist() == [[1, 1], [1, 1]]
    assert gather_ragged_rows(torch.full((1 + this,), this)).tolist() == [0, 1, 1]
    assert gather_ragged_rows(torch.zeros(0, 4)).shape == (0, 4)


def _nothing_else(this: int) -> None:
    """What JSON would change without a word is refused before anything is sent."""
    for value in ((1, 2), {1: 2}, {"a": {3}}, torch.ones(1), [b"bytes"], ValueError("x")):
        with pytest.raises(TypeError, match="cannot be sent to other processes; send tensors or JSON"):
            gather_values(value)


def _bomb(this: int) -> None:
    """A rank that sends a pickle is not believed."""
    marker = Path(tempfile.gettempdir()) / f"bomb-{os.getppid()}"
    content = pickle.dumps(Bomb(marker))
    if this == 0:
        for sent in ([0, 1], [len(content)], list(content)):
            dist.broadcast(torch.tensor(sent, dtype=torch.uint8 if sent == list(content) else torch.int64), src=0)
    else:
        with pytest.raises(ValueError, match=r"codec can't decode|Expecting value"):
            same_on_all(None)
    dist.barrier()
    assert not marker.exists()


def _proof(token: bytes) -> Callable[[str], bytes]:
    return lambda text: hmac.digest(token, text.encode(), "sha256")


def _friends(this: int) -> None:
    require_peers(_proof(b"ours"), "group")


def _stranger(this: int) -> None:
    with pytest.raises(UserError, match=rf"who connected as rank {1 - this} .*does not know the run's token"):
        require_peers(_proof(b"ours" if this == 0 else b"guessed"), "group")


def _echo(this: int) -> None:
    """What one says to the other cannot be said back to it."""
    says = _proof(b"ours")
    if this == 0:
        with pytest.raises(UserError, match="does not know the run's token"):
            require_peers(says, "group")
    else:
        require_peers(lambda text: says(text.replace("1 to 0", "0 to 1")), "group")


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
    "tensors": _tensors,
    "ragged": _ragged,
    "nothing else": _nothing_else,
    "a bomb": _bomb,
    "friends": _friends,
    "a stranger": _stranger,
    "an echo": _echo,
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
    assert gather_values(3) == [3]
    assert gather_ragged_rows(given) is given
    assert same_tensor_on_all(given) is given
    assert (rank(), world_size()) == (0, 1)


def test_nothing_to_share_is_nothing() -> None:
    assert map_rows(lambda rows: rows, torch.zeros(0, 2)).shape == (0, 2)


def test_nothing_in_rnet_sends_objects_to_other_ranks() -> None:
    """torch pickles them, and unpickles what it receives."""
    calls = re.compile(
        r"\b(broadcast_object_list|(all_)?gather_object|scatter_object(_input)?_list|(send|recv)_object_list)\b"
        r"|\bTCPStore\(|distributed\.rpc|multiprocessing\.connection|\b(world|comm)\.(bcast|gather|scatter|send|recv)\("
    )
    root = Path(__file__).resolve().parents[2]
    files = [path for room in ("rnet", "launch") for path in (root / room).rglob("*.py")]
    assert len(files) > 200
    said = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if calls.search(line)
    ]
    assert said == []
