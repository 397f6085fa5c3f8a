"""The store on which the ranks of one run meet: keys and values on rank 0, for those who know the run's token.

torch's TCPStore listens on every interface and asks nobody who he is. This one listens where it is told, and whoever
does not prove within seconds that he knows the token is put out; what he sends meanwhile is never looked into.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import selectors
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from threading import Lock, Thread
from typing import Any

from torch.distributed import DistNetworkError, DistStoreError, Store

from rnet.parallel.channel import GREETING, NONCE_BYTES, PROOF_BYTES, Channel, Handshake, Signed

PROOF_SECONDS = 10.0
"""How long a guest may take to prove that he knows the token."""
MOST_STRANGERS = 128
"""Guests who have not proved it yet; the one who has been there longest makes room for the next."""
POLL_SECONDS = 0.001, 0.05
"""Between two looks at a key that is waited for, at first and at most."""
_READ_BYTES = 2**16


class StoreServer:
    """Keys and values, served by a thread of this process until the process ends or close() is called."""

    def __init__(self, host: str, port: int, token: bytes) -> None:
        """host: an address of this machine, "" for all of them. port: 0 takes a free one.

        Raises OSError if it cannot listen there.
        """
        self._values: dict[str, bytes] = {}
        self._token = token
        both = not host and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._guests = selectors.DefaultSelector()
        self._guests.register(self._listener, selectors.EVENT_READ)
        self._strangers: list[_Guest] = []  # in the order of their coming
        self._wake, self._woken = socket.socketpair()
        self._guests.register(self._woken, selectors.EVENT_READ)
        self._thread = Thread(target=self._serve, name="rnet-store", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends all conversations."""
        self._wake.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            wait = None if not self._strangers else max(self._strangers[0].deadline - time.monotonic(), 0.0)
            for event, mask in self._guests.select(wait):
                if event.fileobj is self._listener:
                    self._accept()
                elif event.fileobj is self._woken:
                    for other in list(self._guests.get_map().values()):
                        other.fileobj.close()  # type: ignore[union-attr]
                    self._guests.close()
                    return
                else:
                    self._attend(event.data, mask)
            while self._strangers and self._strangers[0].deadline <= time.monotonic():
                self._put_out(self._strangers[0])

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # he has left already; or no file descriptor is free, and one stranger makes room
            if self._strangers:
                self._put_out(self._strangers[0])
            else:
                time.sleep(POLL_SECONDS[1])
            return
        connection.setblocking(False)
        guest = _Guest(connection, self._token)
        self._guests.register(connection, selectors.EVENT_READ, guest)
        self._strangers.append(guest)
        if len(self._strangers) > MOST_STRANGERS:
            self._put_out(self._strangers[0])
        self._send(guest, GREETING + guest.handshake.store_nonce)

    def _attend(self, guest: _Guest, mask: int) -> None:
        if guest.gone:
            return
        try:
            if mask & selectors.EVENT_WRITE:
                self._send(guest, b"")
            if not mask & selectors.EVENT_READ:
                return
            found = guest.connection.recv(_READ_BYTES)
            if not found:
                raise ConnectionResetError
            guest.received += found
            if guest.to_store is None and guest.prove():
                self._strangers.remove(guest)
                self._send(guest, guest.handshake.proof(b"store"))
            while guest.to_store is not None and (message := guest.to_store.opened(guest.received)) is not None:
                self._send(guest, guest.to_rank.sealed(self._answer(message)))
        except BlockingIOError:
            return
        except (OSError, DistNetworkError):
            self._put_out(guest)

    def _send(self, guest: _Guest, data: bytes) -> None:
        """Sends what the connection takes, and the rest when it takes more."""
        guest.unsent += data
        with contextlib.suppress(OSError):  # a broken connection is noticed when it is read
            del guest.unsent[: guest.connection.send(guest.unsent)]
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if guest.unsent else 0)
        self._guests.modify(guest.connection, mask, guest)

    def _put_out(self, guest: _Guest) -> None:
        if guest.gone:
            return
        guest.gone = True
        if guest in self._strangers:
            self._strangers.remove(guest)
        self._guests.unregister(guest.connection)
        guest.connection.close()

    def _answer(self, message: bytes) -> bytes:
        question, *arguments = json.loads(message)
        try:
            return json.dumps([getattr(self, f"_do_{question}")(*arguments)]).encode()
        except ValueError as error:  # add() to what is no number
            return json.dumps([None, f"{question} {arguments[0]}: {error}"]).encode()

    def _do_set(self, key: str, value: str) -> None:
        self._values[key] = _bytes(value)

    def _do_append(self, key: str, value: str) -> None:
        self._values[key] = self._values.get(key, b"") + _bytes(value)

    def _do_get(self, *keys: str) -> list[str] | None:
        return [_text(self._values[key]) for key in keys] if self._do_check(*keys) else None

    def _do_check(self, *keys: str) -> bool:
        return all(key in self._values for key in keys)

    def _do_add(self, key: str, amount: int) -> int:
        total = int(self._values.get(key, b"0")) + amount
        self._values[key] = str(total).encode()
        return total

    def _do_compare_set(self, key: str, expected: str, desired: str) -> str:
        """As torch's TCPStore: an absent key is set where nothing was expected."""
        current = _text(self._values[key]) if key in self._values else None
        if current == expected or (current is None and not expected):
            self._values[key] = _bytes(desired)
            return desired
        return expected if current is None else current

    def _do_delete(self, key: str) -> bool:
        return self._values.pop(key, None) is not None

    def _do_count(self) -> int:
        return len(self._values)


class _Guest:
    """A connection to the store."""

    def __init__(self, connection: socket.socket, token: bytes) -> None:
        self.connection = connection
        self.handshake = Handshake(token)
        self.deadline = time.monotonic() + PROOF_SECONDS
        self.received, self.unsent = bytearray(), bytearray()
        self.to_store: Signed | None = None
        self.gone = False

    def prove(self) -> bool:
        """Whether the guest has proved that he knows the token; raises DistNetworkError if he does not."""
        if len(self.received) < NONCE_BYTES + PROOF_BYTES:
            return False
        nonce, proof = bytes(self.received[:NONCE_BYTES]), bytes(self.received[NONCE_BYTES:][:PROOF_BYTES])
        del self.received[: NONCE_BYTES + PROOF_BYTES]
        self.handshake = Handshake(self.handshake.token, self.handshake.store_nonce, nonce)
        if not hmac.compare_digest(proof, self.handshake.proof(b"rank")):
            raise DistNetworkError("a guest does not know the token")
        self.to_store, self.to_rank = self.handshake.signed(b"rank"), self.handshake.signed(b"store")
        return True


class RanksStore(Store):
    """A rank's view of the store, as torch.distributed wants it. Threads may share one; each question is answered at
    once, and whoever waits for a key asks again. torch calls it from C++, which does not keep it alive: its owner does.

    Raises DistNetworkError when the store is gone, DistStoreError for keys that do not come within the timeout.
    """

    def __init__(self, host: str, port: int, token: bytes, *, seconds: float) -> None:
        """Connects, as Channel does and with its errors."""
        super().__init__()
        self.host, self.port = host, port
        self._token, self._seconds = token, seconds
        self._channel = Channel((host, port), token, seconds)
        self._lock = Lock()

    def another(self) -> RanksStore:
        """The same store, by a connection of its own."""
        other = RanksStore(self.host, self.port, self._token, seconds=self._seconds)
        other.set_timeout(self._patience)
        return other

    def proof(self, text: str) -> bytes:
        """That this process knows the token: what only those who do can make of the text."""
        return hmac.digest(self._token, b"text: " + text.encode(), "sha256")

    @property
    def _patience(self) -> timedelta:
        """What set_timeout() was told."""
        return self.timeout  # type: ignore[attr-defined]

    def _ask(self, *question: Any) -> Any:
        try:
            with self._lock:
                answer, *errors = json.loads(self._channel.ask(json.dumps(question).encode()))
        except OSError as error:
            raise DistNetworkError(f"the ranks' store at {self.host}:{self.port} is gone: {error}") from error
        if errors:
            raise DistStoreError(*errors)
        return answer

    def _wait_for(self, keys: Sequence[str], timeout: timedelta) -> list[str]:
        deadline = time.monotonic() + timeout.total_seconds()
        pause, longest = POLL_SECONDS
        while (found := self._ask("get", *keys)) is None:
            if time.monotonic() >= deadline:
                raise DistStoreError(f"wait timeout after {timeout.total_seconds():.0f} s, keys: {', '.join(keys)}")
            time.sleep(pause)
            pause = min(2 * pause, longest)
        return list(found)

    def set(self, key: str, value: str | bytes) -> None:
        """Sets a value."""
        self._ask("set", key, _text(value))

    def get(self, key: str) -> bytes:
        """The value, as soon as there is one."""
        return self.multi_get([key])[0]

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The values, as soon as there is one for each."""
        return [_bytes(value) for value in self._wait_for(keys, self._patience)]

    def multi_set(self, keys: list[str], values: list[str | bytes]) -> None:
        """Sets each key to its value."""
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def append(self, key: str, value: str | bytes) -> None:
        """Adds to the end of the value."""
        self._ask("append", key, _text(value))

    def has_extended_api(self) -> bool:
        """multi_get, multi_set and append are there."""
        return True

    def add(self, key: str, value: int) -> int:
        """Adds to a number that begins at 0, and returns it."""
        return int(self._ask("add", key, value))

    def check(self, keys: list[str]) -> bool:
        """Whether all keys have a value."""
        return bool(self._ask("check", *keys))

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Returns when all keys have a value."""
        self._wait_for(keys, self._patience if timeout is None else timeout)

    def compare_set(self, key: str, expected_value: str | bytes, desired_value: str | bytes) -> bytes:
        """Sets the key if it has the expected value, or none where "" is expected; the value it then has."""
        return _bytes(self._ask("compare_set", key, _text(expected_value), _text(desired_value)))

    def clone(self) -> RanksStore:
        """Itself: threads may share it, and a copy made for C++ would have nobody to keep its Python half."""
        return self

    def deleteKey(self, key: str) -> bool:  # torch calls delete_key by this name
        """Deletes the key; whether it was there."""
        return bool(self._ask("delete", key))

    def getNumKeys(self) -> int:  # and num_keys by this one
        """How many keys there are."""
        return int(self._ask("count"))


def _text(value: str | bytes) -> str:
    """Bytes as JSON carries them: one character each."""
    return (value.encode() if isinstance(value, str) else value).decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")
