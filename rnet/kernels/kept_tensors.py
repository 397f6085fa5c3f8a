"""Caches of tensors that are worked out once, which can be emptied all together.

Where tensors are only planned, those that have no memory must not be kept for who computes, nor the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import _lru_cache_wrapper, lru_cache
from typing import TypeVar

T = TypeVar("T")

_caches: list[_lru_cache_wrapper[object]] = []


def keep_tensors(most: int | None = None) -> Callable[[Callable[..., T]], _lru_cache_wrapper[T]]:
    """A decorator: functools.lru_cache(most), for what returns tensors. Shared by all callers: never write to them."""

    def decorate(function: Callable[..., T]) -> _lru_cache_wrapper[T]:
        cached = lru_cache(most)(function)
        _caches.append(cached)
        return cached

    return decorate


def forget_tensors() -> None:
    """Empties all of these caches."""
    for cached in _caches:
        cached.cache_clear()
