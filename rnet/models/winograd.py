"""Convolutions of a frozen model replaced by Winograd's algorithm (rnet/kernels/winograd.py) where that is faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rnet.kernels.winograd import backward_weights, products, transform_weights, winograd_conv

FEWEST_CHANNELS = 128
"""With fewer, a direct convolution is as fast (2 cores, AVX2); twice as many where tiles stick out of the map."""
LARGEST_MAP = 16
LEAST_SAVED = 3.0
"""How many times fewer multiplications it must take."""


class WinogradConv2d(nn.Module):
    """A Conv2d of frozen weights for maps of one size; others, and tensors that are not float32, take the Conv2d.

    Call refresh() whenever the weights have changed.
    """

    u_PCK: Tensor
    u_back_PKC: Tensor

    def __init__(self, conv: nn.Conv2d, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = conv
        self.size = size
        for name, weight in self._weights().items():
            self.register_buffer(name, transform_weights(weight, size), persistent=False)

    def refresh(self) -> None:
        """Takes over the Conv2d's present weights, in place."""
        for name, weight in self._weights().items():
            transform_weights(weight, self.size, out=getattr(self, name))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """As the Conv2d, up to rounding; channels_last."""
        if x_NCHW.shape[2:] != self.size or x_NCHW.dtype != self.u_PCK.dtype or torch.is_autocast_enabled("cpu"):
            return self.conv(x_NCHW)  # type: ignore[no-any-return]
        return winograd_conv(x_NCHW, self.u_PCK, self.u_back_PKC, self.conv.bias)

    def _weights(self) -> dict[str, Tensor]:
        return {"u_PCK": self.conv.weight, "u_back_PKC": backward_weights(self.conv.weight)}


@torch.no_grad()
def use_winograd(model: nn.Module, x_BCHW: Tensor) -> list[WinogradConv2d]:
    """Replaces convolutions of the model in place, where it pays for images like x; returns the new modules.

    model: in eval mode and frozen, in float32 on a CPU. Replaced are 3x3 convolutions with stride 1 and many channels
    whose input is a small map: by a fixed rule, so that a run that resumes computes as the one that was interrupted.
    """
    sizes: dict[str, set[tuple[int, int]]] = {}
    handles = []
    for name, module in model.named_modules():
        if _is_plain_3x3(module):

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
        if len(found) == 1 and pays(conv.in_channels, conv.out_channels, size := found.pop()):
            replaced.append(WinogradConv2d(conv, size))
            model.set_submodule(name, replaced[-1])
    return replaced


def pays(channels_in: int, channels_out: int, size: tuple[int, int]) -> bool:
    """Whether a 3x3 convolution of maps of this size (H, W) is faster by Winograd's algorithm."""
    height, width = size
    exact = size == (2, 2) or (height % 4 == 0 and width % 4 == 0)
    fewest = FEWEST_CHANNELS if exact else 2 * FEWEST_CHANNELS
    saved = 9 * height * width / products(size)
    return max(size) <= LARGEST_MAP and min(channels_in, channels_out) >= fewest and saved >= LEAST_SAVED


def _is_plain_3x3(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.stride == module.dilation == (1, 1)
        and module.padding in ((1, 1), "same")
        and module.padding_mode == "zeros"
        and module.groups == 1
        and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
    )
