"""3x3 convolutions of small feature maps with a quarter of the multiplications, for weights that stay for a while.

Each tile of the output is bilinear in the map and in the weights: y = A [(G w) * (B x)], where * multiplies the P
components one by one and sums over channels: P matrix products in place of nine per position of the tile. A tile of
4x4 takes P = 36 of them instead of 144 (Winograd 1980; Lavin, Gray, CVPR 2016), a whole 2x2 map with its zero border 9
instead of 36. G w pays where the same weights meet many maps, as in RemovalNet's latent level: twenty steps, forward
and backward, through one frozen network.

The finite points at which the polynomials of 4x4 tiles are evaluated, 0, +-5/7 and +-7/5, keep rounding within a
few times that of a direct convolution; with the usual 0, +-1 and +-2 it is about twice as large (compare Barabasz et
al., ACM TOMS 2020).
They also serve the backward pass, which convolves with the weights turned by half a circle. A turned polynomial takes
at a point what the first one takes at its inverse, up to a factor, and 5/7 and 7/5, 0 and infinity are each other's
inverses: so its components are those of the first in another order, which the maps B and A make up for.

Shapes: N images, C channels in, K out, H height, W width, P components, T tiles.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from rnet.errors import UserError
from rnet.kernels.checks import check_floats, check_same_device, check_shape
from rnet.kernels.kept_tensors import keep_tensors

_OP = "winograd_conv"
POINTS = (0.0, 5 / 7, -5 / 7, 7 / 5, -7 / 5)
"""And infinity."""
SCRATCH_ELEMENTS = 1 << 20
"""Of a work area (4 MiB in float32): the components of a chunk of tiles should stay in the cache ..."""
FEWEST_TILES = 128
"""... but a chunk should have as many tiles as this, or reading the weights takes longer than the products."""


@dataclass(frozen=True, eq=False)
class _Algorithm:
    """Of one tile size m: the three maps in two dimensions, in float64. side: what a tile reads is side x side.

    turned_PI and turned_OP are map and output for weights that are turned by half a circle after their transformation.
    """

    m: int
    side: int
    map_PI: Tensor
    weight_P9: Tensor
    output_OP: Tensor
    turned_PI: Tensor
    turned_OP: Tensor


def transform_weights(weight_KC33: Tensor, size: tuple[int, int], out: Tensor | None = None) -> Tensor:
    """G w, shape (P, C, K), for maps of `size` (H, W); the weights of winograd_conv. out: where to write it."""
    check_floats(_OP, weight=weight_KC33)
    count_K, count_C = weight_KC33.shape[:2]
    check_shape(_OP, "weight", weight_KC33, (count_K, count_C, 3, 3), "a 3x3 convolution without groups")
    algorithm = _for_map(size)
    rows = weight_KC33.detach().permute(2, 3, 1, 0).reshape(9, count_C * count_K)
    g_P9 = algorithm.weight_P9.to(rows)
    flat = None if out is None else out.view(len(g_P9), count_C * count_K)
    return torch.mm(g_P9, rows, out=flat).view(-1, count_C, count_K)


def products(size: tuple[int, int]) -> int:
    """How many multiplications per channel in, channel out and map of this size (H, W) are left of 9 H W."""
    m, components = _tile_and_components(size)
    return components * -(-size[0] // m) * -(-size[1] // m)


def winograd_conv(x_NCHW: Tensor, u_PCK: Tensor, bias_K: Tensor | None = None) -> Tensor:
    """The 3x3 convolution with stride 1 and a zero border of 1: (N, K, H, W), channels_last, of x's type.

    u: transform_weights of the weights, for maps of x's height and width. Gradients flow to x only: the weights are
    taken as constant. float32 or float64, all tensors alike; on CPUs only, where it was measured. Raises UserError for
    anything else.
    """
    check_floats(_OP, x=x_NCHW, u=u_PCK)
    check_same_device(_OP, x=x_NCHW, u=u_PCK)
    if x_NCHW.device.type != "cpu" or x_NCHW.dtype not in (torch.float32, torch.float64):
        raise UserError(f"{_OP}: x is {x_NCHW.dtype} on {x_NCHW.device}; give float32 on a CPU, or use conv2d")
    if x_NCHW.ndim != 4 or x_NCHW.numel() == 0:
        raise UserError(f"{_OP}: x has shape {tuple(x_NCHW.shape)}; give (images, channels, height, width), none empty")
    _, components = _tile_and_components((x_NCHW.shape[2], x_NCHW.shape[3]))
    if u_PCK.ndim != 3:
        raise UserError(f"{_OP}: u has shape {tuple(u_PCK.shape)}; give what transform_weights returns")
    count_C, count_K = x_NCHW.shape[1], u_PCK.shape[2]
    what = "what transform_weights gives for x's channels, height and width"
    check_shape(_OP, "u", u_PCK, (components, count_C, count_K), what)
    for name, tensor in (("u", u_PCK), *([] if bias_K is None else [("bias", bias_K)])):
        if tensor.dtype != x_NCHW.dtype:
            raise UserError(f"{_OP}: {name} is {tensor.dtype} but x {x_NCHW.dtype}; give one type")
    if bias_K is not None:
        check_shape(_OP, "bias", bias_K, (count_K,), "one value per output channel")
    return winograd_conv_op(x_NCHW, u_PCK, bias_K, False)


def _compute(x_NCHW: Tensor, u_PCK: Tensor, bias_K: Tensor | None, turned: bool) -> Tensor:
    """turned: from K channels to C, with the weights turned by half a circle: the gradient of x from one of y."""
    if turned:
        u_PCK = u_PCK.transpose(1, 2)
    size_N, _, height, width = x_NCHW.shape
    components, count_C, count_K = u_PCK.shape
    algorithm = _for_map((height, width))
    rows, columns = -(-height // algorithm.m), -(-width // algorithm.m)
    out_NKHW = _empty_output(x_NCHW, count_K)
    out_NHWK = out_NKHW.permute(0, 2, 3, 1)
    fitting = SCRATCH_ELEMENTS // (components * max(count_C, count_K))  # tiles
    most = max(max(fitting, FEWEST_TILES) // (rows * columns), 1)
    chunks = -(-size_N // most)
    for x_nCHW, out_nHWK in zip(x_NCHW.tensor_split(chunks), out_NHWK.tensor_split(chunks), strict=True):
        _compute_chunk(algorithm, x_nCHW.permute(0, 2, 3, 1), u_PCK, out_nHWK, rows, columns, turned)
        if bias_K is not None:
            out_nHWK.add_(bias_K)
    return out_NKHW


def _compute_chunk(
    algorithm: _Algorithm, x_NHWC: Tensor, u_PCK: Tensor, out_NHWK: Tensor, rows: int, columns: int, turned: bool
) -> None:
    m, side, dtype = algorithm.m, algorithm.side, u_PCK.dtype
    size_N, height, width, count_C = x_NHWC.shape
    components, _, count_K = u_PCK.shape
    count_T = size_N * rows * columns
    whole = height == width == m  # one tile is the map: what it reads and writes lies there in order
    map_PI, output_OP = _matrices(algorithm, whole, turned, dtype)
    one = _scratch("one", count_T * components * max(count_C, count_K), dtype)
    other = _scratch("other", len(one), dtype)
    if whole:
        read_TIC = x_NHWC.reshape(count_T, m * m, count_C)
    else:
        around = (size_N, m * rows + side - m, m * columns + side - m, count_C)
        padded = _view(_scratch("padded", torch.Size(around).numel(), dtype), around)
        _with_zero_border(x_NHWC, padded)
        tiles = padded.unfold(1, side, m).unfold(2, side, m).permute(0, 1, 2, 4, 5, 3)
        read_TIC = _view(one, (count_T, side * side, count_C))
        read_TIC.view(tiles.shape).copy_(tiles)
    v_TPC = torch.bmm(map_PI.expand(count_T, -1, -1), read_TIC, out=_view(other, (count_T, components, count_C)))
    m_PTK = torch.bmm(v_TPC.transpose(0, 1), u_PCK, out=_view(one, (components, count_T, count_K)))
    y_TOK = out_NHWK.view(count_T, m * m, count_K) if whole else _view(other, (count_T, m * m, count_K))
    torch.bmm(output_OP.expand(count_T, -1, -1), m_PTK.transpose(0, 1), out=y_TOK)
    if not whole:
        y = y_TOK.view(size_N, rows, columns, m, m, count_K).transpose(2, 3)
        if height % m or width % m:
            out_NHWK.copy_(y.reshape(size_N, rows * m, columns * m, count_K)[:, :height, :width])
        else:
            out_NHWK.view(y.shape).copy_(y)


def _with_zero_border(x_NHWC: Tensor, out: Tensor) -> None:
    """x one in from the top and left of out, and zeros around it."""
    _, height, width, _ = x_NHWC.shape
    out[:, 0].zero_()
    out[:, height + 1 :].zero_()
    out[:, 1 : height + 1, 0].zero_()
    out[:, 1 : height + 1, width + 1 :].zero_()
    out[:, 1 : height + 1, 1 : width + 1].copy_(x_NHWC)


winograd_conv_op = torch.library.custom_op("rnet::winograd_conv", _compute, mutates_args=())


@winograd_conv_op.register_fake
def _fake(x_NCHW, u_PCK, bias_K, turned):  # type: ignore[no-untyped-def]
    return _empty_output(x_NCHW, u_PCK.shape[1 if turned else 2])


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    _, u_PCK, _, turned = inputs
    ctx.save_for_backward(u_PCK)
    ctx.turned = turned


def _backward(ctx, grad_NKHW):  # type: ignore[no-untyped-def]
    (u_PCK,) = ctx.saved_tensors
    return winograd_conv_op(grad_NKHW, u_PCK, None, not ctx.turned), None, None, None


winograd_conv_op.register_autograd(_backward, setup_context=_setup_context)


def _empty_output(x_NCHW: Tensor, count_K: int) -> Tensor:
    """Not a view, which could not be modified in place."""
    size_N, _, height, width = x_NCHW.shape
    shape = (size_N, count_K, height, width)
    return torch.empty(shape, dtype=x_NCHW.dtype, device=x_NCHW.device, memory_format=torch.channels_last)


def _tile_and_components(size: tuple[int, int]) -> tuple[int, int]:
    return (2, 9) if tuple(size) == (2, 2) else (4, 36)


def _for_map(size: tuple[int, int]) -> _Algorithm:
    return _whole_2x2() if _tile_and_components(size)[0] == 2 else _tiles_4x4()


@keep_tensors()
def _tiles_4x4() -> _Algorithm:
    """Transposed Toom-Cook: to correlate is to multiply polynomials, at five points and infinity, transposed."""
    map_66 = torch.linalg.inv(_values(6)).T
    map_66[map_66.abs() < 1e-12] = 0.0
    scale_6 = map_66.abs().amax(dim=1)  # moved into the weights, where it costs nothing
    weight_63 = _values(3) * scale_6[:, None]
    inverses = [5, *(POINTS.index(1 / p) for p in POINTS[1:]), 0]
    return _squared(4, 6, map_66 / scale_6[:, None], weight_63, _values(4).T, inverses)


def _values(terms: int) -> Tensor:
    """What each coefficient of a polynomial of so many terms adds at each point; at infinity, only the highest does."""
    rows = [[p**k for k in range(terms)] for p in POINTS]
    return torch.tensor([*rows, [0.0] * (terms - 1) + [1.0]], dtype=torch.float64)


@keep_tensors()
def _whole_2x2() -> _Algorithm:
    """y0 = w1 x0 + w2 x1 and y1 = w0 x0 + w1 x1 in three products, as Karatsuba's."""
    float64 = torch.float64
    map_32 = torch.tensor([[1, 1], [0, 1], [1, 0]], dtype=float64)
    weight_33 = torch.tensor([[0, 1, 0], [0, -1, 1], [1, -1, 0]], dtype=float64)
    output_23 = torch.tensor([[1, 1, 0], [1, 0, 1]], dtype=float64)
    return _squared(2, 2, map_32, weight_33, output_23, [0, 2, 1])


def _squared(
    m: int, side: int, map_pi: Tensor, weight_p3: Tensor, output_op: Tensor, turned_p: list[int]
) -> _Algorithm:
    """The algorithm in two dimensions from the one in one.

    turned_p: which component of weights is, up to a factor, component p of weights in reverse order.
    """
    largest = weight_p3.abs().argmax(dim=1, keepdim=True)
    factor_p = (weight_p3.flip(1)[turned_p].gather(1, largest) / weight_p3.gather(1, largest)).squeeze(1)
    turned_pi, turned_op = map_pi[turned_p], output_op[:, turned_p] * factor_p
    maps = (map_pi, weight_p3, output_op, turned_pi, turned_op)
    return _Algorithm(m, side, *(torch.kron(matrix.contiguous(), matrix.contiguous()) for matrix in maps))


@keep_tensors()
def _matrices(algorithm: _Algorithm, whole: bool, turned: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """B and A. whole: B without the columns that meet the zero border."""
    m, side = algorithm.m, algorithm.side
    map_PI = algorithm.turned_PI if turned else algorithm.map_PI
    output_OP = algorithm.turned_OP if turned else algorithm.output_OP
    if whole and side > m:
        map_PI = map_PI.view(-1, side, side)[:, 1:-1, 1:-1].reshape(len(map_PI), m * m)
    return map_PI.to(dtype).contiguous(), output_OP.to(dtype).contiguous()


_areas = threading.local()


def _scratch(name: str, elements: int, dtype: torch.dtype) -> Tensor:
    """A work area of this thread, kept: memory that is new each time would cost page faults."""
    key = f"{name} {dtype}"
    area: Tensor | None = getattr(_areas, key, None)
    if area is None or len(area) < elements:
        area = torch.empty(elements, dtype=dtype)
        setattr(_areas, key, area)
    return area[:elements]


def _view(area: Tensor, shape: tuple[int, ...]) -> Tensor:
    return area[: torch.Size(shape).numel()].view(shape)
