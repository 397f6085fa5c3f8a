"""How near a result in some floating type must be to its float64 oracle."""

from __future__ import annotations

import torch
from torch import Tensor

FLOAT_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def assert_near(result: Tensor, expected: Tensor, *, scale: float | None = None, digits: float = 4e-6) -> None:
    """Within one unit in the last place of the result's type (the interpreter truncates to bfloat16) plus float32
    arithmetic's error, `digits` times the scale, which is the largest expected magnitude unless given."""
    expected = expected.double().cpu()
    result_double = result.detach().double().cpu()
    assert result_double.shape == expected.shape
    if scale is None:
        scale = expected.abs().max().item()
    last_place = torch.finfo(result.dtype).eps * expected.abs() + torch.finfo(result.dtype).smallest_normal
    excess = (result_double - expected).abs() - (last_place + digits * scale)
    assert not result_double.isnan().any()
    assert excess.max() <= 0, f"off by {(result_double - expected).abs().max().item()}, scale {scale}"
