"""`run`: calls a function with the ops as torch references, and again with the ops as interpreted Triton kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kernels.interpreter import interpreted


@pytest.fixture(params=["reference", "triton"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    if request.param == "reference":
        return lambda function, *args, **kwargs: function(*args, **kwargs)
    pytest.importorskip("triton")
    return interpreted
