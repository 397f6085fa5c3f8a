"""Matrix products by weights that stand still for a while, packed once in the order in which oneDNN reads them.

torch.bmm packs both factors anew in every call, which takes about as long as the products where rows are few. To oneDNN
the products are a 1x1 convolution in P groups of an image of one row: its T pixels are the rows, P times C channels
each. Those by the transposed weights are its transposed convolution. What is packed is for one number of rows: with
another it would be many times slower.

Shapes: T rows, P products, C what a row holds, K what it becomes.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnet.rewrites.memory_format import ONEDNN_CHANNEL_BLOCK

_BY_ONE: dict[str, Any] = {"padding": [0, 0], "stride": [1, 1], "dilation": [1, 1]}
_AS_IT_IS: dict[str, Any] = {"attr": "none", "scalars": [], "algorithm": ""}


class Packed(NamedTuple):
    """The weights of P products for the way there and, transposed, back: opaque where oneDNN has packed them, else both
    are (P K, C, 1, 1)."""

    there: Tensor
    back: Tensor
    products: int
    channels_in: int
    channels_out: int


class PackedWeights:
    """Weights of P products, packed when they are asked for, for each number of rows that they meet.

    unpacked: gives them, (P, K, C), as they are now.
    """

    def __init__(self, unpacked: Callable[[], Tensor]) -> None:
        self._unpacked = unpacked
        self._packed: dict[int, Packed] = {}

    def renew(self) -> None:
        """Takes over the weights as they are at the next call."""
        self._packed.clear()

    def for_rows(self, rows: int) -> Packed:
        """For multiply() of so many rows."""
        if rows not in self._packed:
            u_PKC = self._unpacked().detach()
            count_P, count_K, count_C = u_PKC.shape
            there, back = (_pack_op(u_PKC, rows, transposed) for transposed in (False, True))
            self._packed[rows] = Packed(there, back, count_P, count_C, count_K)
        return self._packed[rows]

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy: it packs its own."""
        return self.__dict__ | {"_packed": {}}


def multiply(v_TV: Tensor, packed: Packed, transposed: bool = False) -> Tensor:
    """(T, P K), contiguous: each row's P parts by the weights of each; transposed: from (T, P K) to (T, P C).

    v: (T, P C), contiguous. Gradients do not flow.
    """
    rows, parts = v_TV.shape
    if not packed.there.is_mkldnn:
        v_PTC = v_TV.view(rows, packed.products, -1).transpose(0, 1)
        u_PKC = packed.there.view(packed.products, packed.channels_out, packed.channels_in)
        y_PTK = torch.bmm(v_PTC, u_PKC if transposed else u_PKC.transpose(1, 2))
        return y_PTK.transpose(0, 1).contiguous().view(rows, -1)
    image = v_TV.as_strided((1, parts, rows, 1), (v_TV.numel(), 1, parts, parts))  # as views say it, in one call
    there, back = _operators()
    y: Tensor
    if transposed:
        y = back(image, packed.back, None, **_BY_ONE, output_padding=[0, 0], groups=packed.products, **_AS_IT_IS)
    else:
        y = there(image, packed.there, None, **_BY_ONE, groups=packed.products, **_AS_IT_IS)
    return y.permute(0, 2, 3, 1).view(rows, -1)


@functools.cache
def _operators() -> tuple[Any, Any]:
    """Found once, because each call would choose among variants; not every build of torch has them."""
    return torch.ops.mkldnn._convolution_pointwise.default, torch.ops.mkldnn._convolution_transpose_pointwise.default


def _pack(u_PKC: Tensor, rows: int, transposed: bool) -> Tensor:
    count_P, count_K, count_C = u_PKC.shape
    weight = u_PKC.reshape(count_P * count_K, count_C, 1, 1)
    if not _can_pack(u_PKC):
        return weight.clone()  # an operator must not return what it was given
    size = [1, count_P * (count_K if transposed else count_C), rows, 1]
    packed: Tensor
    if transposed:
        packed = torch.ops.mkldnn._reorder_convolution_transpose_weight(
            weight, **_BY_ONE, output_padding=[0, 0], groups=count_P, input_size=size
        )
    else:
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, **_BY_ONE, groups=count_P, input_size=size)
    return packed


_pack_op = torch.library.custom_op("rnet::pack_products", _pack, mutates_args=())


@_pack_op.register_fake
def _fake(u_PKC, rows, transposed):  # type: ignore[no-untyped-def]
    count_P, count_K, count_C = u_PKC.shape
    return u_PKC.new_empty(count_P * count_K, count_C, 1, 1)


def _can_pack(u_PKC: Tensor) -> bool:
    """Where it was measured: float32, whole blocks of channels, x86."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    return u_PKC.dtype == torch.float32 and all(channels % ONEDNN_CHANNEL_BLOCK == 0 for channels in u_PKC.shape[1:])
