"""The benchmark of the ops, at tiny sizes: rows for every op, and both sides of each comparison compute the same."""

from __future__ import annotations

import math

import pytest
import torch

from rnet.bench.kernels import _cases, bench_kernels
from tests.kernels.interpreter import OPS

CPU = torch.device("cpu")


def test_every_op_has_a_row_with_times_and_a_ratio() -> None:
    rows = bench_kernels(CPU, scale="tiny", compiled=False, rounds=3)
    assert [row["name"] for row in rows] == [op for op in OPS if op != "philox"]  # which torch has no operation for
    for row in rows:
        assert row["ratio_eager"] == pytest.approx(row["eager_ms"] / row["kernel_ms"])
        numbers = [value for name, value in row.items() if name not in ("name", "work")]
        assert all(math.isfinite(value) and value >= 0 for value in numbers)


@pytest.mark.parametrize("scale", ["tiny", "cpu"])
def test_op_and_plain_torch_compute_the_same(scale: str) -> None:
    for case in _cases(CPU, scale):  # type: ignore[arg-type]
        found, expected = case.call(case.kernel)(), case.call(case.eager)()
        found, expected = (value[0] if isinstance(value, tuple) else value for value in (found, expected))
        torch.testing.assert_close(found, expected, msg=lambda text, case=case: f"{case.name} {case.work}: {text}")


@pytest.mark.slow
def test_compiled_torch_is_timed_too() -> None:
    rows = bench_kernels(CPU, scale="tiny", rounds=3)
    assert all(row["ratio_compiled"] == pytest.approx(row["compiled_ms"] / row["kernel_ms"]) for row in rows)
