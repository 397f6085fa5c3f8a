"""Convolutions of a frozen model, replaced by what computes the same with less work where it pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class RewrittenConv2d(nn.Module):
    """A Conv2d of frozen weights for maps of one size; maps that do not fit take the Conv2d itself.

    Call refresh() whenever the weights have changed.
    """

    kernel: ClassVar[int]
    stride: ClassVar[int]

    def __init__(self, conv: nn.Conv2d, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = conv
        self.size = size

    @classmethod
    def pays(cls, channels_in: int, channels_out: int, size: tuple[int, int]) -> bool:
        """Whether it is faster than a Conv2d with maps of this size (H, W)."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Takes over the Conv2d's present weights."""

    def fits(self, x_NCHW: Tensor) -> bool:
        """Whether compute() takes the maps."""
        return x_NCHW.shape[2:] == self.size

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """As the Conv2d, up to rounding; channels_last."""
        y: Tensor = self.compute(x_NCHW) if self.fits(x_NCHW) else self.conv(x_NCHW)
        return y

    def compute(self, x_NCHW: Tensor) -> Tensor:
        """As the Conv2d, for maps that fit."""
        raise NotImplementedError


@torch.no_grad()
def quicken(model: nn.Module, x_BCHW: Tensor, kinds: Sequence[type[RewrittenConv2d]]) -> list[RewrittenConv2d]:
    """Replaces convolutions of the model in place by the first of the kinds that computes the same and pays for images
    like x; returns the new modules.

    model: in eval mode and frozen. Which are replaced follows from channels and map sizes alone, so that a run that
    resumes computes as the one that was interrupted.
    """
    sizes: dict[str, set[tuple[int, int]]] = {}
    handles = []
    for name, module in model.named_modules():
        if any(stands_for(kind, module) for kind in kinds):

            def note(module: nn.Module, arguments: Any, name: str = name) -> None:
                sizes.setdefault(name, set()).add(tuple(arguments[0].shape[2:]))

            handles.append(module.register_forward_pre_hook(note))
    try:
        model(x_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    replaced = []
    for name, found in sizes.items():
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        if len(found) > 1:
            continue
        (size,) = found
        for kind in kinds:
            if stands_for(kind, conv) and kind.pays(conv.in_channels, conv.out_channels, size):
                replaced.append(kind(conv, size))
                model.set_submodule(name, replaced[-1])
                break
    return replaced


def stands_for(kind: type[RewrittenConv2d], conv: nn.Module) -> bool:
    """Whether the module is a plain Conv2d as the kind has it, with the usual border and no hooks."""
    if type(conv) is not nn.Conv2d or conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks:
        return False
    border = kind.kernel // 2
    return (
        conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and conv.kernel_size == (kind.kernel,) * 2
        and conv.stride == (kind.stride,) * 2
        and (conv.padding == (border, border) or conv.padding == "same")
    )
