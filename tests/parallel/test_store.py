"""The ranks' store: the same answers as torch's, and what strangers who know its address can do to it: nothing."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from torch.distributed import DistNetworkError, DistStoreError, HashStore, PrefixStore, Store, TCPStore

from rnet.parallel import store as store_module
from rnet.parallel.channel import GREETING, Channel, Handshake, Refused, Signed
from rnet.parallel.store import MOST_STRANGERS, RanksStore, StoreServer
from tests.parallel.listening import listening

TOKEN = b"the token of this test"
PATIENCE = 20.0


@pytest.fixture
def server() -> Iterator[StoreServer]:
    server = StoreServer("127.0.0.1", 0, TOKEN)
    yield server
    server.close()


@pytest.fixture
def ranks(server: StoreServer) -> RanksStore:
    return join(server)


def join(server: StoreServer) -> RanksStore:
    return RanksStore("127.0.0.1", server.port, TOKEN, seconds=PATIENCE)


def knock(server: StoreServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the store closes the connection."""
    found = b""
    while part := connection.recv(4096):
        found += part
    return found


def _asked(store: Store) -> list[Any]:
    """The answers to every kind of question, by way of C++ as torch asks them."""
    store.set("a", "1")
    store.set("bytes", bytes(range(256)))  # type: ignore[arg-type]
    answers: list[Any] = [store.get("a"), store.get("bytes"), store.add("n", 3), store.add("n", -5), store.get("n")]
    answers += [store.compare_set("c", "", "first"), store.compare_set("c", "", "second"), store.get("c")]
    answers += [store.compare_set("c", "first", "third"), store.compare_set("d", "some", "any")]
    answers += [store.check(["a", "c"]), store.check(["a", "d"]), store.delete_key("a"), store.delete_key("a")]
    answers += [store.check(["a"]), store.multi_get(["c", "n"]), store.num_keys()]
    store.append("c", "+")  # type: ignore[attr-defined]
    store.multi_set(["x", "y"], ["1", "2"])  # type: ignore[attr-defined]
    store.wait(["x", "y"])
    store.wait(["x"], timedelta(seconds=1))
    answers.append(store.clone().get("x"))
    return [*answers, store.get("c"), store.get("y")]


def test_it_answers_as_torchs_own_store_does(ranks: RanksStore) -> None:
    theirs = HashStore()
    assert _asked(ranks) == _asked(theirs)
    assert _asked(PrefixStore("p", ranks)) == _asked(PrefixStore("p", theirs))


def test_a_key_that_comes_late_is_waited_for_and_one_that_never_comes_is_named(ranks: RanksStore) -> None:
    shared = PrefixStore("p", ranks)
    found: list[bytes] = []
    waiting = Thread(target=lambda: found.append(shared.get("late")))
    waiting.start()
    time.sleep(0.1)
    ranks.set("p/late", "here")  # by the same connection: who waits holds up nobody
    waiting.join(PATIENCE)
    assert found == [b"here"]
    shared.set_timeout(timedelta(seconds=0.1))
    for ask in (lambda: shared.get("never"), lambda: shared.wait(["never"], timedelta(seconds=0.1))):
        with pytest.raises(DistStoreError, match="timeout after 0 s, keys: p/never"):
            ask()


def test_a_question_that_has_no_answer_ends_neither_the_store_nor_the_connection(ranks: RanksStore) -> None:
    ranks.set("word", "no number")
    with pytest.raises(DistStoreError, match="add word: invalid literal"):
        ranks.add("word", 1)
    assert ranks.get("word") == b"no number"


def test_large_values_and_many_askers(server: StoreServer) -> None:
    large = os.urandom(3_000_000)
    askers = [join(server) for _ in range(8)]

    def ask(own: RanksStore) -> None:
        for _ in range(50):
            own.add("count", 1)

    threads = [Thread(target=ask, args=(own,)) for own in askers]
    for thread in threads:
        thread.start()
    askers[0].set("large", large)
    assert askers[1].get("large") == large
    for thread in threads:
        thread.join(PATIENCE)
    assert askers[0].add("count", 0) == 400


def test_a_store_that_is_gone_is_an_error_of_the_network(server: StoreServer, ranks: RanksStore) -> None:
    server.close()
    for _ in range(2):
        with pytest.raises(DistNetworkError, match=r"the ranks' store at 127.0.0.1:\d+ is gone"):
            ranks.get("a")


def test_it_listens_on_loopback_only(server: StoreServer) -> None:
    assert [address for address, port in listening(os.getpid()) if port == server.port] == ["127.0.0.1"]


def _garbage(server: StoreServer) -> None:
    for data in (b"\0" * 10_000, b"GET / HTTP/1.0\r\n\r\n", os.urandom(64), b'["delete", "secret"]', b"\xff" * 100_000):
        with knock(server) as stranger:
            stranger.sendall(data)


def _torchs_client(server: StoreServer) -> None:
    with pytest.raises(RuntimeError):
        TCPStore("127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=0.5), wait_for_workers=False).get(
            "secret"
        )


def _wrong_token(server: StoreServer) -> None:
    for token in (b"", b"x", TOKEN + b".", TOKEN[:-1]):
        with pytest.raises(Refused):
            RanksStore("127.0.0.1", server.port, token, seconds=PATIENCE)


def _no_proof(server: StoreServer) -> None:
    """Whoever skips the proof, or sends a wrong one with questions behind it, is put out unheard."""
    with knock(server) as stranger:
        greeting = stranger.recv(len(GREETING) + 32)
        key = Handshake(b"guessed", greeting[-32:], bytes(32)).signed(b"rank")
        stranger.sendall(bytes(64) + key.sealed(b'["delete", "secret"]') + key.sealed(b'["set", "failure", "x"]'))
        assert rest(stranger) == b""


def _replay(server: StoreServer) -> None:
    """What a rank said before, said again word by word."""
    said = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as between:

        def overhear() -> None:
            rank, _ = between.accept()
            with rank, knock(server) as behind:
                rank.sendall(behind.recv(4096))
                for _ in range(2):
                    said.extend(part := rank.recv(4096))
                    behind.sendall(part)
                    rank.sendall(behind.recv(4096))

        thread = Thread(target=overhear)
        thread.start()
        Channel(between.getsockname(), TOKEN, PATIENCE).ask(b'["add", "overheard", 1]')
        thread.join(PATIENCE)
    with knock(server) as stranger:
        stranger.recv(4096)
        stranger.sendall(said)
        assert rest(stranger) == b""
    assert join(server).add("overheard", 0) == 1


def _thousands(server: StoreServer) -> None:
    for _ in range(2000):
        knock(server).close()


def _half_open(server: StoreServer) -> None:
    """More than the store keeps, silent or in the middle of a proof, and held while it is asked."""
    strangers = [knock(server) for _ in range(MOST_STRANGERS + 100)]
    for number, stranger in enumerate(strangers):
        if number % 2:
            stranger.sendall(b"\0" * (number % 63))
    assert join(server).get("secret") == b"kept"
    for stranger in strangers:
        stranger.close()


def _reset(server: StoreServer) -> None:
    for _ in range(50):
        stranger = knock(server)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stranger.close()


@pytest.mark.parametrize(
    "deed", [_garbage, _torchs_client, _wrong_token, _no_proof, _replay, _thousands, _half_open, _reset]
)
def test_a_stranger_who_knows_the_address_changes_nothing(
    server: StoreServer, ranks: RanksStore, deed: Callable[[StoreServer], None]
) -> None:
    ranks.set("secret", "kept")
    deed(server)
    assert ranks.get("secret") == join(server).get("secret") == b"kept"
    assert not ranks.check(["failure"])
    assert ranks.num_keys() == (2 if deed is _replay else 1)


def test_who_does_not_prove_himself_is_put_out_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PROOF_SECONDS", 0.2)
    server = StoreServer("127.0.0.1", 0, TOKEN)
    with knock(server) as silent, knock(server) as half:
        half.sendall(bytes(40))
        for stranger in (silent, half):
            assert len(rest(stranger)) == len(GREETING) + 32
    server.close()


def test_a_store_that_does_not_know_the_token_is_not_believed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as impostor:

        def pose() -> None:
            for answer in (b"", bytes(32), None):
                connection, _ = impostor.accept()
                with connection:
                    connection.sendall(b"HTTP/1.0 400 Bad\r\n" if answer is None else GREETING + bytes(32))
                    connection.recv(4096)
                    connection.sendall(answer or b"")

        Thread(target=pose, daemon=True).start()
        for expected in (Refused, Refused, ConnectionError):
            with pytest.raises(expected):
                Channel(impostor.getsockname(), TOKEN, PATIENCE)


@pytest.mark.parametrize("change", ["flip", "repeat", "swap", "other side", "too long"])
def test_a_message_that_was_changed_on_its_way_is_noticed(change: str) -> None:
    rank, store = Handshake(TOKEN).signed(b"rank"), Handshake(TOKEN).signed(b"store")
    here, there = Signed(rank.key), Signed(store.key if change == "other side" else rank.key)
    first, second = here.sealed(b"first"), here.sealed(b"second")
    sent = {
        "flip": first[:-1] + bytes([first[-1] ^ 1]), "repeat": first + first, "swap": second + first,
        "other side": first, "too long": b"\xff" * 8,
    }[change]  # fmt: skip
    received = bytearray(sent)
    with pytest.raises(DistNetworkError, match=r"was changed on its way|is too long"):
        list(iter(lambda: there.opened(received), None))
    assert Signed(rank.key).opened(bytearray(first[:-1])) is None
