"""Which code an op runs on CUDA."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from rnet.kernels import dispatch
from rnet.kernels.dispatch import on_cuda, triton_problem


def reference(x: Tensor, factor: float) -> str:
    return "reference"


def kernel(x: Tensor, factor: float) -> str:
    return "kernel"


@pytest.mark.parametrize(
    ("dtype", "problem", "expected"),
    [
        (torch.float32, "", "kernel"),
        (torch.bfloat16, "", "kernel"),
        (torch.float64, "", "reference"),
        (torch.float32, "no C compiler", "reference"),
    ],
)
def test_the_kernel_is_taken_where_it_can_be(
    dtype: torch.dtype, problem: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "triton_problem", lambda device: problem)
    assert on_cuda(reference, kernel)(torch.ones(2, dtype=dtype), 2.0) == expected


def test_what_keeps_triton_from_working_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    nowhere = torch.device("cuda", 17)
    triton_problem.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert triton_problem(nowhere) != "", "there is no such device"
        triton_problem(nowhere)
    assert len(caplog.records) == 1
    assert "Triton does not work on cuda:17" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_triton_works_on_this_gpu() -> None:
    assert triton_problem(torch.device("cuda", 0)) == ""
