"""Bytes that torch's allocator for the host has handed out, counted exactly: torch's profiler hears of each call.

Temporary buffers within operators count, too, which a count of tensors does not see; what Python and libraries with
allocators of their own take does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.profiler import ProfilerActivity, profile


@contextmanager
def peak_allocated() -> Iterator[dict[str, int]]:
    """Inside, allocations are recorded; after, the yielded dict's "bytes" is how far their peak lay above the start."""
    found = {"bytes": 0}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        yield found
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        found["bytes"] = max(found["bytes"], now)
