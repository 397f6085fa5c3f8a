"""Memory that is kept for the next allocation: in a process of its own, as nothing takes the setting back."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_STEPS = """
import resource, torch
from rnet.rewrites.cpu.freed_memory import keep_freed_memory
print(keep_freed_memory())
def step():
    made = [torch.empty(6 << 20).fill_(1.0) for _ in range(6)]  # 24 MiB each
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**variables: str) -> tuple[bool, int]:
    """Whether memory is kept, and the page faults of ten steps that make and free 144 MiB each."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    found = subprocess.run(
        [sys.executable, "-c", _STEPS], env=unset | variables, capture_output=True, text=True, check=True
    ).stdout.split()
    return found[0] == "True", int(found[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's allocator")
def test_the_next_step_finds_the_memory_of_the_last() -> None:
    kept, faults = run()
    assert kept
    assert faults < 10 * 6 * 6144 / 10, "a tenth of the pages that the steps write; by default it is all of them"


def test_what_the_user_has_set_stays() -> None:
    assert not run(MALLOC_TRIM_THRESHOLD_="131072")[0]
