"""3x3 convolutions of small feature maps with fewer multiplications, for weights that stand still for a while.

Along one axis each tile of the output is bilinear in the map and in the weights: y = A [(G w) * (B x)], where *
multiplies the Q components one by one and, over both axes, sums over channels: Q^2 matrix products in place of nine per
position. A tile of 4 takes Q = 6 components instead of 12 products (Winograd 1980; Lavin, Gray, CVPR 2016), a map of 2
with its zero border 3 instead of 6; with stride 2 a map of 4 takes 5 instead of 6, those that do not meet the border.
G w pays where the same weights meet many maps, as in RemovalNet's latent level: twenty steps, forward and backward,
through one frozen network. The gradient of x from one of y has the same form with each matrix transposed.

The finite points at which the polynomials of tiles of 4 are evaluated, 0, +-5/7 and +-7/5, keep rounding within a
few times that of a direct convolution; with the usual 0, +-1 and +-2 it is about twice as large (compare Barabasz et
al., ACM TOMS 2020).

B and A of all tiles along an axis are one matrix each, in which a border is a row or column of zeros: so maps need
neither a border nor to be cut into tiles, and tiles may stick out.

Shapes: N images, C channels in, K out, H height, W width, P = Q^2 products, R tiles down, S tiles across, T = N R rows.
Within: X = H W places in, Y out; L = N H lines of a map, I = R Q, V = Q C or Q K (P C or P K of maps of one tile).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnet.errors import UserError
from rnet.kernels.checks import check_floats, check_shape
from rnet.kernels.kept_tensors import keep_tensors
from rnet.rewrites.cpu.products import Packed, PackedWeights, multiply

_OP = "winograd_conv"


@dataclass(frozen=True, eq=False)
class _Tile:
    """Along one axis, in float64: M outputs = write [(weight w) * (read x)], from X elements of the map, of which the
    first is one before the place that the tile begins at. step: from there to where the next tile begins."""

    read_QX: Tensor
    weight_Q3: Tensor
    write_MQ: Tensor
    step: int


def transform_weights(weight_KC33: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
    """G w, shape (P, K, C), of a 3x3 convolution for maps of `size` (H, W); what winograd_conv's weights are packed of.

    stride: 1, or 2 for maps of 4x4. Raises UserError for other strides and weights.
    """
    check_floats(_OP, weight=weight_KC33)
    count_K, count_C = weight_KC33.shape[:2]
    check_shape(_OP, "weight", weight_KC33, (count_K, count_C, 3, 3), "a 3x3 convolution without groups")
    if stride != 1 and (stride, *size) != (2, 4, 4):
        raise UserError(f"{_OP}: stride={stride} for maps of {size}; give 1, or 2 for maps of 4x4")
    weight_Q3 = _tile(size, stride).weight_Q3
    weight_K9C = weight_KC33.detach().permute(0, 2, 3, 1).reshape(count_K, 9, count_C)  # as channels_last has it
    transform_P9 = torch.kron(weight_Q3, weight_Q3).to(weight_K9C)
    return torch.bmm(transform_P9.expand(count_K, -1, -1), weight_K9C).transpose(0, 1).contiguous()


def multiplications(size: tuple[int, int], stride: int = 1) -> int:
    """How many multiplications per channel in, channel out and map of this size (H, W) are left of 9 H W."""
    components = len(_tile(size, stride).weight_Q3) ** 2
    return components * _tiles(size[0], size, stride) * _tiles(size[1], size, stride)


def winograd_conv(
    x_NCHW: Tensor, weights: PackedWeights, bias_K: Tensor | None, size: tuple[int, int], stride: int = 1
) -> Tensor:
    """The convolution with a zero border of 1: (N, K, H, W) or, with stride 2, half of it, channels_last, of x's type.

    weights: of transform_weights for this size (H, W) and stride. Gradients flow to x only. float32 or float64, all
    tensors alike; on CPUs only, where it was measured. Raises UserError for anything else.
    """
    check_floats(_OP, x=x_NCHW)
    if x_NCHW.device.type != "cpu" or x_NCHW.dtype not in (torch.float32, torch.float64):
        raise UserError(f"{_OP}: x is {x_NCHW.dtype} on {x_NCHW.device}; give float32 on a CPU, or use conv2d")
    if x_NCHW.ndim != 4 or x_NCHW.numel() == 0:
        raise UserError(f"{_OP}: x has shape {tuple(x_NCHW.shape)}; give (images, channels, height, width), none empty")
    packed = weights.for_rows(len(x_NCHW) * _tiles(size[0], size, stride))
    check_shape(_OP, "x", x_NCHW, (len(x_NCHW), packed.channels_in, *size), "maps as the weights are for")
    if x_NCHW.dtype != packed.there.dtype:
        raise UserError(f"{_OP}: x is {x_NCHW.dtype} but the weights {packed.there.dtype}; give one type")
    if bias_K is not None:
        check_shape(_OP, "bias", bias_K, (packed.channels_out,), "one value per output channel")
    y: Tensor = _Convolution.apply(x_NCHW, packed, bias_K, size, stride, False)
    return y


class _Convolution(torch.autograd.Function):
    """transposed: x is a gradient of y, for that of x."""

    @staticmethod
    def forward(
        ctx: Any, x_NCHW: Tensor, packed: Packed, bias_K: Tensor | None, size: tuple[int, int], stride: int,
        transposed: bool,
    ) -> Tensor:  # fmt: skip
        ctx.saved = (packed, size, stride, transposed)
        return _compute(x_NCHW, packed, bias_K, size, stride, transposed)

    @staticmethod
    def backward(ctx: Any, gradient_NKHW: Tensor) -> tuple[Tensor | None, ...]:
        packed, size, stride, transposed = ctx.saved
        compute = _Convolution.apply if torch.is_grad_enabled() else _compute
        return compute(gradient_NKHW, packed, None, size, stride, not transposed), *(None,) * 5


def _compute(
    x_NCHW: Tensor, packed: Packed, bias_K: Tensor | None, size: tuple[int, int], stride: int, transposed: bool
) -> Tensor:
    count_N = len(x_NCHW)
    count_K = packed.channels_in if transposed else packed.channels_out
    way = _way(count_N, size, stride, transposed, x_NCHW.dtype)
    out_NKHW = torch.empty(  # not a view, which could not be modified in place
        (count_N, count_K, *way.out_size), dtype=x_NCHW.dtype, memory_format=torch.channels_last
    )
    out_NHWK = out_NKHW.permute(0, 2, 3, 1)
    if isinstance(way, _OneTile):
        _by_map(x_NCHW.permute(0, 2, 3, 1), packed, way, transposed, out_NHWK)
    else:
        _by_axis(x_NCHW.permute(0, 2, 3, 1), packed, way, transposed, out_NHWK)
    if bias_K is not None:
        out_NHWK.add_(bias_K)
    return out_NKHW


def _by_map(x_NHWC: Tensor, packed: Packed, way: _OneTile, transposed: bool, out_NHWK: Tensor) -> None:
    """Of maps of one tile, both axes at once: more operations than one after the other, but fewer passes."""
    count_N, *_, count_C = x_NHWC.shape
    v_NPC = torch.bmm(way.read_NPX, x_NHWC.reshape(count_N, -1, count_C))
    m_NV = multiply(v_NPC.view(count_N, -1), packed, transposed)
    out_NYK = out_NHWK.view(count_N, -1, out_NHWK.shape[3])
    torch.bmm(way.write_NYP, m_NV.view(count_N, v_NPC.shape[1], -1), out=out_NYK)


def _by_axis(x_NHWC: Tensor, packed: Packed, way: _Tiles, transposed: bool, out_NHWK: Tensor) -> None:
    """One axis after the other, and the tiles across one by one, which together were slower."""
    (count_N, high, wide, count_C), (_, _, out_wide, count_K) = x_NHWC.shape, out_NHWK.shape
    x_LWC, out_LWK = x_NHWC.reshape(-1, wide, count_C), out_NHWK.view(-1, out_wide, count_K)
    for s, write_LWQ in enumerate(way.across_writes):
        read_NHV = torch.bmm(way.across_reads[s], x_LWC).view(count_N, high, -1)
        parts_NIV = torch.bmm(way.down_read_NIH, read_NHV)
        m_TV = multiply(parts_NIV.view(way.rows, -1), packed, transposed)
        written_NHV = torch.bmm(way.down_write_NHI, m_TV.view(count_N, parts_NIV.shape[1], -1))
        written_LQK = written_NHV.view(len(write_LWQ), -1, count_K)
        if s == 0:
            torch.bmm(write_LWQ, written_LQK, out=out_LWK)
        else:
            out_LWK.baddbmm_(write_LWQ, written_LQK)


class _OneTile(NamedTuple):
    """From maps of one tile to maps, or from gradients to gradients: the matrices of both axes in one, (P, H W) and
    (H' W', P), as views for as many images."""

    out_size: tuple[int, int]
    read_NPX: Tensor
    write_NYP: Tensor


class _Tiles(NamedTuple):
    """The same for maps of several tiles: the matrices of each axis, as views for as many lines or images."""

    out_size: tuple[int, int]
    rows: int
    across_reads: tuple[Tensor, ...]
    """For each tile across, (L, Q, W)."""
    across_writes: tuple[Tensor, ...]
    """(L, W', Q)."""
    down_read_NIH: Tensor
    down_write_NHI: Tensor


@keep_tensors(256)
def _way(images: int, size: tuple[int, int], stride: int, transposed: bool, dtype: torch.dtype) -> _OneTile | _Tiles:
    """Kept, because putting it together in each call takes 20 to 40 microseconds more."""
    components = len(_tile(size, stride).weight_Q3)  # Q
    down_read, down_write = _matrices(size[0], size, stride, transposed, dtype)  # (RQ, H), (H', RQ)
    across_read, across_write = _matrices(size[1], size, stride, transposed, dtype)  # (SQ, W), (W', SQ)
    (count_I, high), (out_high, _) = down_read.shape, down_write.shape
    out_size = (out_high, len(across_write))
    if len(down_read) == len(across_read) == components:
        both = (torch.kron(down_read, across_read), torch.kron(down_write, across_write))
        read_NPX, write_NYP = (matrix.expand(images, -1, -1) for matrix in both)
        return _OneTile(out_size, read_NPX, write_NYP)
    writes = across_write.split(components, dim=1)
    return _Tiles(
        out_size=out_size, rows=images * count_I // components,
        across_reads=tuple(read.expand(images * high, -1, -1) for read in across_read.split(components)),
        across_writes=tuple(write.expand(images * out_high, -1, -1) for write in writes),
        down_read_NIH=down_read.expand(images, -1, -1), down_write_NHI=down_write.expand(images, -1, -1),
    )  # fmt: skip


# --- the algorithms


def _tile(size: tuple[int, int], stride: int) -> _Tile:
    if stride == 2:
        return _half_of_4()
    return _whole_2() if tuple(size) == (2, 2) else _tile_of_4()


def _tiles(length: int, size: tuple[int, int], stride: int) -> int:
    """Along an axis of this length, of a map of this size."""
    return -(-length // _tile(size, stride).step)


@keep_tensors()
def _matrices(
    length: int, size: tuple[int, int], stride: int, transposed: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """B and A of all tiles along an axis of this length; transposed: those of the gradient."""
    tile, tiles = _tile(size, stride), _tiles(length, size, stride)
    outputs, components = tile.write_MQ.shape
    positions = tiles * tile.step + tile.read_QX.shape[1]  # enough for the border, and what sticks out
    read = torch.zeros(tiles * components, positions, dtype=torch.float64)
    write = torch.zeros(tiles * outputs, tiles * components, dtype=torch.float64)
    for t in range(tiles):
        own = slice(t * components, (t + 1) * components)
        read[own, t * tile.step : t * tile.step + tile.read_QX.shape[1]] = tile.read_QX
        write[t * outputs : (t + 1) * outputs, own] = tile.write_MQ
    read, write = read[:, 1 : length + 1], write[: -(-length // stride)]
    if transposed:
        read, write = write.T, read.T
    return read.to(dtype).contiguous(), write.to(dtype).contiguous()


@keep_tensors()
def _tile_of_4() -> _Tile:
    return _Tile(*_correlation(4, 3, (0.0, 5 / 7, -5 / 7, 7 / 5, -7 / 5)), step=4)


def _correlation(outputs: int, taps: int, points: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Transposed Toom-Cook: to correlate is to multiply polynomials, at these points and at infinity, transposed."""
    read_QQ = torch.linalg.inv(_values(points, len(points) + 1)).T
    read_QQ[read_QQ.abs() < 1e-12] = 0.0
    scale_Q1 = read_QQ.abs().amax(dim=1, keepdim=True)  # moved into the weights, where it costs nothing
    return read_QQ / scale_Q1, _values(points, taps) * scale_Q1, _values(points, outputs).T


def _values(points: tuple[float, ...], terms: int) -> Tensor:
    """What each coefficient of a polynomial of so many terms adds at each point; at infinity, only the highest does."""
    rows = [[p**k for k in range(terms)] for p in points]
    return torch.tensor([*rows, [0.0] * (terms - 1) + [1.0]], dtype=torch.float64)


@keep_tensors()
def _whole_2() -> _Tile:
    """y0 = w1 x0 + w2 x1 and y1 = w0 x0 + w1 x1 in three products, as Karatsuba's."""
    read_34 = [[0, 1, 1, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    weight_33 = [[0, 1, 0], [0, -1, 1], [1, -1, 0]]
    write_23 = [[1, 1, 0], [1, 0, 1]]
    read, weight, write = (torch.tensor(rows, dtype=torch.float64) for rows in (read_34, weight_33, write_23))
    return _Tile(read, weight, write, step=2)


@keep_tensors()
def _half_of_4() -> _Tile:
    """y0 = w1 x0 + w2 x1 and y1 = w0 x1 + w1 x2 + w2 x3: five products, one for each that does not meet the border."""
    pairs = [(2 * y + tap, tap, y) for y in range(2) for tap in range(3) if 2 * y + tap >= 1]
    read, weight, write = (torch.zeros(len(pairs), width, dtype=torch.float64) for width in (5, 3, 2))
    for q, (x, tap, y) in enumerate(pairs):
        read[q, x] = weight[q, tap] = write[q, y] = 1.0
    return _Tile(read, weight, write.T.contiguous(), step=4)
