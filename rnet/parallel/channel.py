"""What is said between a rank and the ranks' store: both prove that they know the token, then every message is signed.

The store begins with GREETING and a number used once; the rank answers with a number of its own and a proof; the store
answers with another proof. A proof is the HMAC-SHA256 of both numbers under the token, so it says nothing about the
token and is worth nothing a second time. Each message then carries its length and an HMAC of its place in the
conversation and its content, under a key that both derive from the token and the two numbers. Nothing is secret.
"""

from __future__ import annotations

import hmac
import secrets
import socket
from dataclasses import dataclass, field

from torch.distributed import DistNetworkError

GREETING = b"rnet store 1\n"
NONCE_BYTES = PROOF_BYTES = 32
LENGTH_BYTES = 4
LONGEST_MESSAGE = 2**26


class Refused(DistNetworkError):
    """The ranks' store answers, and does not take this process's token."""


@dataclass
class Signed:
    """One direction of a conversation: what is sent there, or received from there, one message after the other."""

    key: bytes
    count: int = 0

    def sealed(self, message: bytes) -> bytes:
        """The next message as it is sent."""
        return len(message).to_bytes(LENGTH_BYTES, "big") + self._tag(message) + message

    def opened(self, received: bytearray) -> bytes | None:
        """The next message, taken out of what was received; None while a part is missing.

        Raises DistNetworkError if it is not what the other side sent, at this place.
        """
        start = LENGTH_BYTES + PROOF_BYTES
        end = start + int.from_bytes(received[:LENGTH_BYTES], "big")
        if end - start > LONGEST_MESSAGE:
            raise DistNetworkError("a message to or from the ranks' store is too long")
        if len(received) < start or len(received) < end:
            return None
        message, tag = bytes(received[start:end]), bytes(received[LENGTH_BYTES:start])
        del received[:end]
        if not hmac.compare_digest(tag, self._tag(message)):
            raise DistNetworkError("a message to or from the ranks' store was changed on its way")
        return message

    def _tag(self, message: bytes) -> bytes:
        self.count += 1
        return hmac.digest(self.key, self.count.to_bytes(8, "big") + message, "sha256")


@dataclass(frozen=True)
class Handshake:
    """The numbers of one conversation, and what both sides make of them and the token."""

    token: bytes
    store_nonce: bytes = field(default_factory=lambda: secrets.token_bytes(NONCE_BYTES))
    rank_nonce: bytes = field(default_factory=lambda: secrets.token_bytes(NONCE_BYTES))

    def proof(self, side: bytes) -> bytes:
        """That this side (b"rank" or b"store") knows the token."""
        return hmac.digest(self.token, b"proof of the " + side + self.store_nonce + self.rank_nonce, "sha256")

    def signed(self, side: bytes) -> Signed:
        """The messages of this side."""
        key = hmac.digest(self.token, b"messages of the " + side + self.store_nonce + self.rank_nonce, "sha256")
        return Signed(key)


class Channel:
    """A rank's side of the conversation, after both have proved who they are."""

    def __init__(self, address: tuple[str, int], token: bytes, seconds: float) -> None:
        """Connects. Raises OSError if nobody, or something else, is there, and Refused for another token.

        seconds: how long each step may take.
        """
        self._received = bytearray()
        self._socket = socket.create_connection(address, timeout=seconds)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._greet(token)
            self._socket.settimeout(None)
        except BaseException:
            self._socket.close()
            raise

    def _greet(self, token: bytes) -> None:
        if self._take(len(GREETING)) != GREETING:
            raise ConnectionError("something else answers there")
        handshake = Handshake(token, store_nonce=self._take(NONCE_BYTES))
        self._socket.sendall(handshake.rank_nonce + handshake.proof(b"rank"))
        try:
            proof = self._take(PROOF_BYTES)
        except ConnectionError:
            proof = b""
        if not hmac.compare_digest(proof, handshake.proof(b"store")):
            raise Refused("it was started with another token")
        self._to_store, self._to_rank = handshake.signed(b"rank"), handshake.signed(b"store")

    def ask(self, message: bytes) -> bytes:
        """The store's answer to a message. Raises OSError or DistNetworkError if the connection is broken."""
        try:
            self._socket.sendall(self._to_store.sealed(message))
            while (answer := self._to_rank.opened(self._received)) is None:
                self._received += self._more()
            return answer
        except BaseException:
            self.close()  # an answer that nobody took must not become that of the next question
            raise

    def close(self) -> None:
        """Ends the conversation."""
        self._socket.close()

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            self._received += self._more()
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def _more(self) -> bytes:
        found = self._socket.recv(2**16)
        if not found:
            raise ConnectionResetError("the connection was closed")
        return found
