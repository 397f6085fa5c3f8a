"""Which channels of a network can change places, or scale, together, and the weights that write and read them.

A Group is a set of channels that the network never tells apart by position: its members run through elementwise
operations, residual sums, depthwise convolutions, norms, concatenations and reshapes side by side, and only weights
write and read them. channels.py finds the groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a weight has the channels of a group: along `axis` of `tensor`, from `start`, `repeat` entries for each.

    writes: whether the weight makes the channels (or carries them, as a norm's bias does) rather than reads them.
    scales: whether it is part of a rescaling; the weights of a norm or depthwise convolution between others are not.
    """

    tensor: Tensor
    axis: int
    start: int
    repeat: int
    writes: bool
    scales: bool = True


@dataclass(eq=False)
class Group:
    """`size` channels. fixed: they must stay as they are, because something is known to depend on it or unknown."""

    size: int
    places: list[Place] = field(default_factory=list)
    fixed: bool = False
    merged_into: Group | None = None

    def root(self) -> Group:
        """The group that this one has become part of, or itself."""
        group = self
        while group.merged_into is not None:
            group = group.merged_into
        return group

    def merge(self, other: Group) -> None:
        """Makes one group of two of the same size: what happens to one happens to the other."""
        kept, gone = self.root(), other.root()
        if kept is not gone:
            kept.places += gone.places
            kept.fixed |= gone.fixed
            gone.merged_into = kept


def free_groups(groups: list[Group]) -> list[Group]:
    """Those that may change: not fixed, of two channels at least, written and read by weights.

    A weight that two groups claim along the same axis (a module called twice) fixes both.
    """
    roots = list(dict.fromkeys(group.root() for group in groups))
    owners: dict[tuple[int, int, int], Group] = {}
    for group in roots:
        for place in group.places:
            key = (id(place.tensor), place.axis, place.start)
            if owners.setdefault(key, group) is not group:
                group.fixed = owners[key].fixed = True
    return [
        group
        for group in roots
        if not group.fixed and group.size > 1 and {place.writes for place in group.places} == {True, False}
    ]


@torch.no_grad()
def permute(group: Group, generator: torch.Generator) -> None:
    """Gives the channels of a group a random order."""
    order_C = torch.randperm(group.size, generator=generator)
    for place in _once(group):
        block = _channels(place, group.size)
        block.copy_(block.index_select(place.axis, order_C))


@torch.no_grad()
def rescale(group: Group, largest: float, generator: torch.Generator) -> None:
    """Multiplies each channel by a factor that is log-uniform between 1 / largest and largest."""
    exponents_C = 2 * torch.rand(group.size, generator=generator, dtype=torch.float64) - 1
    factors_C = largest**exponents_C
    for place in _once(group):
        if place.scales:
            block = _channels(place, group.size)
            shape = [1] * block.dim()
            shape[place.axis] = group.size
            factors = (factors_C if place.writes else 1 / factors_C).view(shape)
            block.copy_(block.double() * factors)


def _once(group: Group) -> list[Place]:
    """Each place of a group once: a module called twice within it is named twice."""
    return list({(id(p.tensor), p.axis, p.start, p.writes): p for p in group.places}.values())


def _channels(place: Place, size: int) -> Tensor:
    """The part of the weight that belongs to the group, as a view: `size` along place.axis, then `repeat`."""
    return place.tensor.narrow(place.axis, place.start, size * place.repeat).unflatten(place.axis, (size, place.repeat))
