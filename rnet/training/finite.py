"""Numbers that are not finite: noticed on the device at every step, looked at before anything is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rnet.errors import UserError
from rnet.models.weight_limits import all_finite
from rnet.parallel.collectives import any_rank, gather_values

NEVER = 2**62
Images = Callable[[int], Tensor]
"""A step -> the positions of this process's images in the part that is trained on, int64."""
_SHOWN = 8


class Diverged(UserError):
    """A run whose numbers are no longer finite. What it has written (curves, log, checkpoints) stays."""


class FiniteWatch:
    """The first step whose loss was not finite, without waiting for the device at any step."""

    def __init__(self, label: str, device: torch.device, images: Images | None) -> None:
        self._label, self._images = label, images
        self._first = torch.full((), NEVER, dtype=torch.int64, device=device)

    def note(self, step: int, loss: Tensor) -> None:
        """Looks at the loss of a step, on the device."""
        self._first = torch.where(
            torch.isfinite(loss.detach()).to(self._first.device), self._first, self._first.clamp(max=step)
        )

    def require_finite(self, parameters: Callable[[], Iterable[tuple[str, Tensor]]], kept: int | None) -> None:
        """Raises Diverged, on all processes, if a loss was not finite on one of them. Waits for the device.

        parameters: what is trained, by name. kept: the step of the last checkpoint, from which a rerun will go on.
        """
        first = int(self._first)
        if not any_rank(first != NEVER):
            return
        images = self._images(first).tolist() if self._images is not None and first != NEVER else []
        found: list[list[Any]] = gather_values([first, images])
        step = min(first for first, _ in found)
        images = [image for first, images in found if first == step for image in images]
        raise Diverged(_said(self._label, step, first_not_finite(parameters()), images, kept))


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds a number that is not finite, None if all are finite."""
    return next((name for name, value in tensors if value.is_floating_point() and not all_finite(value)), None)


def tensors_in(state: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dictionaries and lists, under a name such as optimizer.fc.weight.momentum_buffer."""
    if isinstance(state, Tensor):
        yield place, state
    elif isinstance(state, Mapping | list | tuple):
        items = state.items() if isinstance(state, Mapping) else enumerate(state)
        for key, value in items:
            yield from tensors_in(value, f"{place}.{key}".lstrip("."))


def not_kept(label: str, step: int, tensor: str, kept: int | None) -> Diverged:
    """The error for a state that is not finite after so many steps, although no loss was."""
    return Diverged(f"{label}: {tensor} is no longer finite after step {step}; {_remedy(step)}{_rerun(kept)}")


def _said(label: str, step: int, tensor: str | None, images: list[int], kept: int | None) -> str:
    where = f", and {tensor} is not finite" if tensor else ""
    more = f" and {len(images) - _SHOWN} more" if len(images) > _SHOWN else ""
    which = f" on images {', '.join(map(str, images[:_SHOWN]))}{more}" if images else ""
    return f"{label}: the loss is not finite at step {step}{which}{where}; {_remedy(step)}{_rerun(kept)}"


def _remedy(step: int) -> str:
    if step == 0:
        return "nothing was trained yet: look at the settings of the loss, at the images, and at the victim"
    return "lower the learning rate (e.g. halve it)"


def _rerun(kept: int | None) -> str:
    return "" if kept is None else f"; the checkpoint of step {kept} is kept, and the same command goes on from it"
