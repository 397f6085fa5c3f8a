"""Pixels of stored images."""

from __future__ import annotations

import pytest
import torch

from rnet.data.pixels import as_pixels, images_at_once

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_every_value_is_its_correctly_rounded_255th(device: str) -> None:
    images_NCHW = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = (images_NCHW.double() / 255).float()
    found = as_pixels(images_NCHW.to(device))
    assert torch.equal(found.cpu(), expected)
    assert torch.equal(expected, images_NCHW.float().div_(255.0))
    assert not torch.equal(expected, images_NCHW.float().mul_(1 / 255)), "this is how CUDA would divide by a number"


def test_floats_are_pixels_already() -> None:
    x_NCHW = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(as_pixels(x_NCHW), x_NCHW.float())


@pytest.mark.parametrize(("size", "count"), [(0, 512), (16, 512), (64, 512), (128, 128), (224, 41), (100_000, 1)])
def test_of_large_images_fewer_go_through_a_model_together(size: int, count: int) -> None:
    assert images_at_once(size, 512) == count
