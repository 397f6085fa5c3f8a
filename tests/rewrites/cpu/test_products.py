"""Products by packed weights against plain ones in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rnet.rewrites.cpu import products
from rnet.rewrites.cpu.products import PackedWeights, multiply


def draw(T: int, P: int, C: int, K: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Rows (T, P, C) and weights (P, K, C)."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((T, P, C), (P, K, C))
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes)  # type: ignore[return-value]


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(
    ("T", "P", "C", "K"), [(1, 1, 16, 16), (5, 9, 32, 48), (64, 36, 16, 32), (7, 3, 5, 6), (130, 2, 64, 16)]
)
def test_they_are_the_products_there_and_back(
    T: int, P: int, C: int, K: int, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packs:
        monkeypatch.setattr(products, "_can_pack", lambda u: False)
    v, u = draw(T, P, C, K)
    packed = PackedWeights(lambda: u).for_rows(T)
    there = multiply(v.flatten(1), packed).view(T, P, K)
    for rows, matrix, transposed in ((v, u, False), (there, u.transpose(1, 2), True)):
        expected = torch.einsum("tpc,pkc->tpk", rows.double(), matrix.double()).flatten(1)
        found = multiply(rows.flatten(1), packed, transposed)
        assert found.is_contiguous()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_other_types_are_not_packed() -> None:
    v, u = draw(4, 2, 16, 16, torch.float64)
    packed = PackedWeights(lambda: u).for_rows(4)
    assert not packed.there.is_mkldnn
    expected = torch.einsum("tpc,pkc->tpk", v, u).flatten(1)
    torch.testing.assert_close(multiply(v.flatten(1), packed), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_taken_over_when_they_are_renewed(dtype: torch.dtype) -> None:
    v, u = draw(4, 2, 16, 16, dtype)
    v = v.flatten(1)
    weights = PackedWeights(lambda: u)
    before = multiply(v, weights.for_rows(4))
    u.mul_(2)
    assert torch.equal(multiply(v, weights.for_rows(4)), before)
    weights.renew()
    torch.testing.assert_close(multiply(v, weights.for_rows(4)), 2 * before)


def test_the_operator_is_registered_as_torch_asks() -> None:
    _, u = draw(4, 2, 16, 16, torch.float64)
    torch.library.opcheck(torch.ops.rnet.pack_products, (u, 4, False))
    torch.library.opcheck(torch.ops.rnet.pack_products, (u, 4, True))
