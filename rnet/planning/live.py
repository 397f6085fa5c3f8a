"""Bytes of all tensors that are alive, by whose they are: counted as operations make them and as they are freed.

Of real tensors and of fake ones, which have shapes and no memory, alike. What an operator allocates and frees within
itself is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WORKING = "activations and working space"


class LiveBytes(TorchDispatchMode):
    """Within the block: `now` bytes of the storages made in it, and `moments`: bytes by owner when most was alive, of
    each kind of moment.

    A storage belongs to "activations and working space" until `belongs` says otherwise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now, self.moment = 0, ""
        self.by_owner: dict[str, int] = {}
        self.moments: dict[str, dict[str, int]] = {}
        self._peaks: dict[str, int] = {}
        self._known: dict[int, tuple[int, str]] = {}

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return found

    def belongs(self, owner: str, tensors: Iterable[Tensor | None]) -> None:
        """From now on the tensors' storages are the owner's."""
        for tensor in tensors:
            if tensor is not None:
                self._note(tensor)
                key = tensor.untyped_storage()._cdata
                size, before = self._known[key]
                self._known[key] = (size, owner)
                self._add(before, -size)
                self._add(owner, size)

    def the_rest_belongs(self, owner: str) -> None:
        """What is alive and nobody's yet is the owner's."""
        for key, (size, before) in self._known.items():
            if before == WORKING:
                self._known[key] = (size, owner)
                self._add(before, -size)
                self._add(owner, size)

    @contextmanager
    def during(self, moment: str) -> Iterator[None]:
        """Names what happens inside."""
        before, self.moment = self.moment, moment
        try:
            yield
        finally:
            self.moment = before

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            known, owner = self._known[key]
            if known != size:  # resized in place
                self._known[key] = (size, owner)
                self._add(owner, size - known)
            return
        self._known[key] = (size, WORKING)
        weakref.finalize(storage, self._forget, key)
        self._add(WORKING, size)

    def _forget(self, key: int) -> None:
        size, owner = self._known.pop(key)
        self._add(owner, -size)

    def _add(self, owner: str, size: int) -> None:
        self.by_owner[owner] = self.by_owner.get(owner, 0) + size
        self.now += size
        if self.now > self._peaks.get(self.moment, 0):
            self._peaks[self.moment] = self.now
            self.moments[self.moment] = dict(self.by_owner)
