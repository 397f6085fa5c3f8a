"""Resizing: tensors against a plain-loop oracle, files against PIL's own steps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rnet.data.config import ImageFolderConfig
from rnet.data.loading import load_dataset
from rnet.data.resize import decode_image, fit_images
from rnet.errors import UserError


def enlarge(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation between pixel centres, clamped at the border, in float64."""
    out = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            y = min(max((row + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
            x = min(max((column + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
            out[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return out


def random_images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_enlarging_is_bilinear() -> None:
    images = random_images(2, 1, 5, 5)
    found = fit_images(images, 9, grayscale=False)
    for image, result in zip(images, found, strict=True):
        expected = enlarge(image[0].double().numpy(), 9, 9)
        assert np.abs(result[0].double().numpy() - expected).max() <= 0.51  # half a grey level, from rounding


def test_images_that_are_not_square_keep_their_middle() -> None:
    images = random_images(3, 3, 4, 9)
    assert torch.equal(fit_images(images, 4, grayscale=False), images[:, :, :, 2:6])


def test_grayscale_is_bt601_luma_and_leaves_gray_images_alone() -> None:
    images = random_images(4, 3, 6, 6)
    red, green, blue = images.double().unbind(dim=1)
    expected = 0.299 * red + 0.587 * green + 0.114 * blue
    found = fit_images(images, 6, grayscale=True)
    assert found.shape == (4, 1, 6, 6)
    assert (found[:, 0].double() - expected).abs().max() <= 0.51
    gray = random_images(4, 1, 6, 6)
    assert fit_images(gray, 6, grayscale=True) is gray


def test_chunks_do_not_show_in_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(7, 3, 6, 6)
    whole = fit_images(images, 4, grayscale=False)
    monkeypatch.setattr("rnet.data.resize._IMAGES_AT_ONCE", 3)
    assert torch.equal(fit_images(images, 4, grayscale=False), whole)


@pytest.mark.parametrize(("width", "height"), [(30, 20), (20, 30), (13, 13), (5, 7)])
def test_a_decoded_file_is_resized_by_its_shorter_side_and_cropped_in_the_middle(
    tmp_path: Path, width: int, height: int
) -> None:
    # A left-right ramp in red and a top-bottom ramp in green: after resize and crop the middle keeps the mean colour.
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 8, rows * 8, np.full_like(rows, 77)], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "ramp.png")
    found = decode_image(str(tmp_path / "ramp.png"), 10, 3).double()
    assert found.shape == (3, 10, 10)
    step = 8 * min(width, height) / 10  # grey levels per pixel of the result, the same in both directions
    assert (found[2] == 77).all()
    for channel in (0, 1):  # the middle may lie half a pixel off
        assert found[channel].mean().item() == pytest.approx(pixels[..., channel].mean(), abs=step / 2 + 1)
    assert (found[0, :, 6] - found[0, :, 3]).mean().item() == pytest.approx(3 * step, abs=1.5)
    assert (found[1, 6, :] - found[1, 3, :]).mean().item() == pytest.approx(3 * step, abs=1.5)


def test_a_file_of_the_right_size_is_decoded_exactly(tmp_path: Path) -> None:
    pixels = random_images(6, 6, 3).numpy()
    Image.fromarray(pixels).save(tmp_path / "exact.png")
    assert np.array_equal(decode_image(str(tmp_path / "exact.png"), 6, 3).permute(1, 2, 0).numpy(), pixels)


def test_a_palette_image_with_transparency_and_a_gray_image_become_what_is_asked_for(tmp_path: Path) -> None:
    Image.fromarray(random_images(6, 6, 4).numpy()).save(tmp_path / "alpha.png")
    Image.fromarray(random_images(6, 6).numpy()).save(tmp_path / "gray.png")
    assert decode_image(str(tmp_path / "alpha.png"), 6, 1).shape == (1, 6, 6)
    gray = decode_image(str(tmp_path / "gray.png"), 6, 3)
    assert torch.equal(gray, random_images(6, 6).expand(3, 6, 6))


@pytest.mark.parametrize("damage", ["truncated", "not an image", "empty", "missing"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "cat.png"
    Image.fromarray(random_images(40, 40, 3).numpy()).save(path)
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "not an image": b"hello" * 99}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    with pytest.raises(UserError, match=r"cat\.png cannot be read as an image .*replace or remove"):
        decode_image(str(path), 8, 3)


SIZES = [(40, 30), (30, 40), (33, 33), (64, 17), (17, 65), (101, 67)]
NAMES = ["bilinear", "bicubic", "lanczos", "nearest", "hamming", "box"]


@pytest.mark.parametrize("interpolation", NAMES)
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(("resize", "image_size"), [(24, 16), (16, 16), (21, 16), (33, 32)])
def test_resize_and_crop_are_torchvisions(
    tmp_path: Path, width: int, height: int, resize: int, image_size: int, interpolation: str
) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    right = Compose([Resize(resize, InterpolationMode(interpolation), antialias=True), CenterCrop(image_size)])
    expected = torch.from_numpy(np.array(right(Image.fromarray(pixels)))).permute(2, 0, 1)
    found = decode_image(str(tmp_path / "image.png"), image_size, 3, resize=resize, interpolation=interpolation)
    assert torch.equal(found, expected)
    stored = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    in_memory = fit_images(stored, image_size, grayscale=False, resize=resize, interpolation=interpolation)
    assert torch.equal(in_memory[0], expected)


def test_images_in_memory_that_came_from_files_are_not_resized_again(tmp_path: Path) -> None:
    for i in range(12):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    settings: dict[str, Any] = {"folder": str(tmp_path), "image_size": 16, "resize": 24, "substitute_pool": 3}
    kept = load_dataset(ImageFolderConfig(**settings))
    on_demand = load_dataset(ImageFolderConfig(**settings, max_memory_mb=0))
    assert torch.equal(kept.train.pixels(), on_demand.train.pixels())


WRONG = [
    ({"resize": 15, "image_size": 16}, "dataset.resize=15 is smaller than dataset.image_size=16"),
    ({"resize": 15, "image_size": 0}, "dataset.resize=15 needs dataset.image_size"),
    ({"resize": 0, "image_size": 0}, "dataset.resize=0 must be at least 1"),
    ({"interpolation": "cubic"}, "dataset.interpolation='cubic' does not exist; did you mean bicubic"),
    ({"background": "#12345"}, "dataset.background='#12345' must be white, black or #rrggbb"),
    ({"background": "gray"}, "dataset.background='gray' must be white, black or #rrggbb"),
    ({"white_level": 0.0}, "dataset.white_level=0.0 must be above 0"),
    ({"class_order": "numeric"}, "dataset.class_order='numeric' does not exist"),
    ({"duplicates": "drop"}, "dataset.duplicates='drop' does not exist"),
    ({"digest": "sha"}, "dataset.digest='sha' does not exist"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        ImageFolderConfig(**settings).check()
    assert message in str(error.value)


def test_an_image_too_narrow_to_be_resized_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (60_000, 1)).save(tmp_path / "line.png")
    with pytest.raises(UserError, match=r"line\.png is 60000x1, too narrow to resize"):
        decode_image(str(tmp_path / "line.png"), 224, 3)
