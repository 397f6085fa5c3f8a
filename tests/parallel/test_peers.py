"""Ranks prove to each other over gloo who they are: real ones, and one that does not know the token."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from rnet.errors import UserError
from rnet.parallel.peers import require_peers
from tests.parallel.two_ranks import failures


def _proof(token: bytes) -> Callable[[str], bytes]:
    return lambda text: hmac.digest(token, text.encode(), "sha256")


def _friends(this: int) -> None:
    require_peers(_proof(b"ours"), "group")


def _stranger(this: int) -> None:
    with pytest.raises(UserError, match=rf"who connected as rank {1 - this} .*does not know the run's token"):
        require_peers(_proof(b"ours" if this == 0 else b"guessed"), "group")


def _echo(this: int) -> None:
    """What one says to the other cannot be said back to it."""
    expected: AbstractContextManager[object] = (
        pytest.raises(UserError, match="does not know the run's token") if this == 0 else nullcontext()
    )
    with expected:
        require_peers(lambda text: _proof(b"ours")(text if this == 0 else text.replace("1 to 0", "0 to 1")), "group")


CASES = {"friends": _friends, "stranger": _stranger, "echo": _echo}


def test_only_who_knows_the_token_is_taken_for_a_rank(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert failures(CASES, tmp_path_factory.mktemp("peers")) == {}
