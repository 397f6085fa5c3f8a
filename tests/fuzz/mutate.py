"""Changes to valid inputs: bits, bytes, numbers at their limits, words, repetitions, and pieces of other inputs."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**31, 2**63 - 1, 2**64 - 1)
_WRITTEN = (
    b"0",
    b"-1",
    b"1e999",
    b"NaN",
    b"Infinity",
    b"9" * 30,
    b"9" * 5000,
    b"18446744073709551616",
    b"0.5",
    b"null",
)
_LARGEST = 2**21


def changed(draw: random.Random, content: bytes, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """The content after 1 to 8 changes."""
    for _ in range(1 + min(7, int(draw.expovariate(0.6)))):
        content = _once(draw, content, others, tokens)[:_LARGEST]
    return content


def _once(draw: random.Random, content: bytes, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    size = len(content)
    at = draw.randrange(size + 1) if draw.random() < 0.6 else min(size, int(draw.expovariate(1 / 60)))  # headers matter
    end = min(size, at + 1 + int(draw.expovariate(1 / 12)))
    kind = draw.randrange(12)
    if kind == 0 and size:
        at = min(at, size - 1)
        return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
    if kind == 1:
        return content[:at] + draw.randbytes(1 + draw.randrange(4)) + content[end:]
    if kind == 2:
        width = draw.choice((1, 2, 4, 8))
        number = draw.choice(_NUMBERS) % 256**width
        return content[:at] + number.to_bytes(width, draw.choice(("big", "little"))) + content[at + width :]
    if kind == 3:
        return content[:at] + draw.randbytes(draw.randrange(1, 12)) + content[at:]
    if kind == 4:
        return content[:at] + content[end:]
    if kind == 5:
        return content[:at] if draw.random() < 0.3 else content[:end] + content[at:]
    if kind == 6:
        times = draw.choice((2, 3, 10, 100, 1000, 30000))
        return (
            content[:at] + content[at:end] * times + content[end:] if times < 1000 or draw.random() < 0.02 else content
        )
    if kind == 7 and others:
        other = draw.choice(others)
        start = draw.randrange(len(other) + 1)
        return content[:at] + other[start : start + draw.choice((8, 60, 10**6))] + content[draw.choice((at, end)) :]
    if kind in (8, 9) and tokens:
        return content[:at] + draw.choice(tokens) + content[draw.choice((at, end)) :]
    found = list(re.finditer(rb"\d+(\.\d+)?", content[: 2**16]))
    if kind == 10 and found:
        match = draw.choice(found)
        return content[: match.start()] + draw.choice(_WRITTEN) + content[match.end() :]
    words = list(re.finditer(rb"[A-Za-z_]{3,}", content[: 2**16]))
    if len(words) > 1:
        one, two = sorted(draw.sample(range(len(words)), 2))
        a, b = words[one], words[two]
        return content[: a.start()] + b[0] + content[a.end() : b.start()] + a[0] + content[b.end() :]
    return content[:at] + draw.randbytes(1) + content[at:]
