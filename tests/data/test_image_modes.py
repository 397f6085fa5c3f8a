"""Files of every kind show what a person sees, or are refused by name: a table of kinds and the right pixels."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from rnet.data.config import ImageFolderConfig
from rnet.data.decoding import Reading, read_image
from rnet.data.loading import load_dataset
from rnet.errors import UserError

GRAY = np.random.default_rng(0).integers(0, 256, (9, 11), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (9, 11, 3), dtype=np.uint8)
INK = np.random.default_rng(2).random((9, 11)) > 0.5
DEEP = GRAY.astype(np.uint16) * 257
BLACK, RED = Reading(background=(0, 0, 0)), Reading(background=(255, 0, 0))
Write = Callable[[Path], None]


def pillow(image: Any, suffix: str, **options: Any) -> tuple[str, Write]:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    return suffix, lambda path: image.save(path, **options)


def tiff(values: np.ndarray, **options: Any) -> tuple[str, Write]:
    return ".tif", lambda path: tifffile.imwrite(path, values, **options)


def raw(content: bytes, suffix: str) -> tuple[str, Write]:
    return suffix, lambda path: path.write_bytes(content) and None


def png16(values_HWC: np.ndarray, colour_type: int) -> tuple[str, Write]:
    """A PNG of 16 bits, which Pillow does not write in colour."""
    height, width = values_HWC.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)),
              (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]  # fmt: skip
    packed = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
              for name, data in chunks]  # fmt: skip
    return raw(b"\x89PNG\r\n\x1a\n" + b"".join(packed), ".png")


def with_alpha(image: np.ndarray) -> Image.Image:
    found = Image.fromarray(image)
    found.putalpha(Image.fromarray(np.where(INK, 255, 0).astype(np.uint8)))
    return found


def turned(orientation: int) -> tuple[Image.Image, Image.Exif]:
    """An image that its orientation turns into GRAY."""
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.fromarray(GRAY).transpose(back[orientation]), exif


def over(ink: np.ndarray, behind: Any) -> np.ndarray:
    return np.where(INK if ink.ndim == 2 else INK[..., None], ink, np.asarray(behind)).astype(np.uint8)


def shades(maximum: int) -> bytes:
    return np.rint(GRAY.astype(float) * maximum / 255).astype(">u2").tobytes()


PALETTE = Image.fromarray(RGB).quantize(16)
PALETTE_RGB = np.array(PALETTE.convert("RGB"))
PALETTE_HOLES = np.where((np.array(PALETTE) == 3)[..., None], 255, PALETTE_RGB)
IS_FIRST = np.equal(GRAY, GRAY[0, 0])
FIRST = np.where(IS_FIRST, 255, GRAY)
FIRST_RGB = np.where(np.equal(RGB, RGB[0, 0]).all(-1)[..., None], 255, RGB)
HALF = np.rint(RGB * (128 / 255) + 255 * (127 / 255)).astype(np.uint8)
HALF_ALPHA = Image.merge("RGBA", [*Image.fromarray(RGB).split(), Image.new("L", (11, 9), 128)])
MORE = [Image.new("L", (11, 9), 255)] * 3
SRGB, LAB = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
FLAT = np.full_like(RGB, (200, 60, 40))
LAB_IMAGE = ImageCms.profileToProfile(Image.fromarray(FLAT), SRGB, LAB, outputMode="LAB")
CMYK_RGB = np.array(Image.fromarray(FLAT).convert("CMYK").convert("RGB"))

SHOWN: dict[str, tuple[tuple[str, Write], np.ndarray, int, Reading]] = {
    "gray png": (pillow(GRAY, ".png"), GRAY, 0, Reading()),
    "colour png": (pillow(RGB, ".png"), RGB, 0, Reading()),
    "16-bit png": (pillow(DEEP, ".png"), GRAY, 0, Reading()),
    "16-bit tiff": (pillow(DEEP, ".tif"), GRAY, 0, Reading()),
    "16-bit tiff, compressed": (pillow(DEEP, ".tif", compression="tiff_lzw"), GRAY, 0, Reading()),
    "16-bit tiff, big-endian": (tiff(DEEP, byteorder=">"), GRAY, 0, Reading()),
    "16-bit tiff, white is zero": (tiff(DEEP, photometric="miniswhite"), 255 - GRAY, 0, Reading()),
    "16-bit tiff in colour": (tiff(RGB.astype(np.uint16) * 257, photometric="rgb"), RGB, 0, Reading()),
    "12 bits in a 16-bit tiff": (pillow(GRAY.astype(np.uint16) * 16, ".tif"), GRAY, 1, Reading(white_level=4095)),
    "32-bit tiff, unsigned": (tiff(GRAY.astype(np.uint32) * 16843009), GRAY, 0, Reading()),
    "32-bit tiff, signed": (tiff(GRAY.astype(np.int32) * 8421504), GRAY, 0, Reading()),
    "16 bits in a 32-bit tiff": (pillow(GRAY.astype(np.int32) * 257, ".tif"), GRAY, 0, Reading(white_level=65535)),
    "16-bit pgm": (pillow(DEEP, ".pgm"), GRAY, 0, Reading()),
    "12-bit pgm": (raw(b"P5 11 9 4095\n" + shades(4095), ".pgm"), GRAY, 0, Reading()),
    "16-bit png in colour": (png16(RGB.astype(np.uint16) * 257, 2), RGB, 0, Reading()),
    "16-bit png with alpha": (png16(np.stack([DEEP, INK * 65535], -1), 4), over(GRAY, 255), 0, Reading()),
    "16-bit png with a transparent value": (
        pillow(DEEP, ".png", transparency=int(DEEP[0, 0])), FIRST, 0, Reading()),
    "float tiff": (pillow((GRAY / 255).astype(np.float32), ".tiff"), GRAY, 0, Reading()),
    "float tiff to 255": (pillow(GRAY.astype(np.float32), ".tiff"), GRAY, 0, Reading(white_level=255)),
    "portable float map": (
        raw(b"Pf\n11 9\n-1.0\n" + (GRAY[::-1] / 255).astype("<f4").tobytes(), ".pfm"), GRAY, 0, Reading()),
    "gray with alpha": (pillow(with_alpha(GRAY), ".png"), over(GRAY, 255), 0, Reading()),
    "gray with alpha, on black": (pillow(with_alpha(GRAY), ".png"), over(GRAY, 0), 0, BLACK),
    "colour with alpha": (pillow(with_alpha(RGB), ".png"), over(RGB, 255), 0, Reading()),
    "colour with alpha, on red": (pillow(with_alpha(RGB), ".png"), over(RGB, (255, 0, 0)), 0, RED),
    "half transparent": (pillow(HALF_ALPHA, ".png"), HALF, 1, Reading()),
    "webp with alpha": (pillow(with_alpha(RGB), ".webp", lossless=True, exact=True), over(RGB, 255), 0, Reading()),
    "tiff with alpha": (pillow(with_alpha(RGB), ".tif"), over(RGB, 255), 0, Reading()),
    "a transparent gray": (pillow(GRAY, ".png", transparency=int(GRAY[0, 0])), FIRST, 0, Reading()),
    "a transparent colour": (pillow(RGB, ".png", transparency=tuple(map(int, RGB[0, 0]))), FIRST_RGB, 0, Reading()),
    "palette": (pillow(PALETTE, ".png"), PALETTE_RGB, 0, Reading()),
    "palette with a hole": (pillow(PALETTE, ".png", transparency=3), PALETTE_HOLES, 0, Reading()),
    "gif with a hole": (pillow(PALETTE, ".gif", transparency=3), PALETTE_HOLES, 0, Reading()),
    "one bit": (pillow(Image.fromarray(INK), ".png"), over(np.full((9, 11), 255), 0), 0, Reading()),
    "upright jpeg": (pillow(turned(6)[0].resize((72, 88), 0), ".jpg", exif=turned(6)[1], quality=100),
                     GRAY.repeat(8, 0).repeat(8, 1), 3, Reading()),
    "upright png": (pillow(turned(8)[0], ".png", exif=turned(8)[1]), GRAY, 0, Reading()),
    "upright tiff": (pillow(turned(3)[0], ".tif", exif=turned(3)[1]), GRAY, 0, Reading()),
    "upright webp": (pillow(turned(6)[0], ".webp", exif=turned(6)[1], lossless=True), GRAY, 0, Reading()),
    "print colours": (pillow(Image.fromarray(FLAT).convert("CMYK"), ".jpg", quality=100), CMYK_RGB, 3, Reading()),
    "lab": (pillow(LAB_IMAGE, ".tif"), FLAT, 3, Reading()),
    "animated gif": (pillow(GRAY, ".gif", save_all=True, append_images=MORE), GRAY, 0, Reading()),
    "animated png": (pillow(GRAY, ".png", save_all=True, append_images=MORE), GRAY, 0, Reading()),
    "pages": (pillow(GRAY, ".tif", save_all=True, append_images=MORE), GRAY, 0, Reading()),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHOWN)
def test_a_file_shows_what_a_person_sees(tmp_path: Path, kind: str) -> None:
    (suffix, write), right, tolerance, reading = SHOWN[kind]
    path = tmp_path / f"image{suffix}"
    write(path)
    image, _ = read_image(str(path), 1 if right.ndim == 2 else 3, reading)
    found = np.asarray(image).astype(int)
    assert found.shape == right.shape
    assert np.abs(found - right).max() <= tolerance


REFUSED: dict[str, tuple[tuple[str, Write], str]] = {
    "empty": (raw(b"", ".png"), "the file is empty"),
    "text": (raw(b"hello\nworld, this is a text", ".png"), "cannot be read as an image"),
    "web page": (raw(b"<!DOCTYPE html><html><body>404</body></html>", ".jpg"), "cannot be read as an image"),
    "huge": (raw(b"P5 60000 60000 255\n" + bytes(1000), ".pgm"), "3600000000 pixels"),
    "floats to 255": (pillow(GRAY.astype(np.float32), ".tif"), "set dataset.white_level, e.g. to 255"),
    "floats below 0": (pillow(GRAY.astype(np.float32) / 255 - 0.5, ".tif"), "shift its values"),
    "no numbers": (pillow(np.full((9, 11), np.nan, np.float32), ".tif"), "no finite numbers"),
    "signed integers": (pillow(GRAY.astype(np.int32) - 128, ".tif"), "shift its values"),
    "postscript": (raw(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ".png"), "its content is no image that"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_shown_right_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    (suffix, write), message = REFUSED[kind]
    path = tmp_path / f"image{suffix}"
    write(path)
    with pytest.raises(UserError) as error:
        read_image(str(path), 1, Reading())
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".gif", ".webp", ".bmp", ".ppm"])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(np.kron(RGB, np.ones((8, 8, 1), np.uint8))).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_image(str(path), 3, Reading())


@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".jpg", {"quality": 90}), (".bmp", {}), (".ppm", {})])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stored", [GRAY, RGB], ids=["gray", "colour"])
def test_ordinary_files_keep_every_byte_that_pillow_gives(
    tmp_path: Path, suffix: str, options: dict[str, Any], channels: int, stored: np.ndarray
) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(stored).save(path, **options)
    image, facts = read_image(str(path), channels, Reading())
    assert image.tobytes() == Image.open(path).convert("L" if channels == 1 else "RGB").tobytes()
    assert (facts.frames, facts.peak, facts.vanished) == (1, None, False)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path, exif=exif)
    image, _ = read_image(str(path), 3, Reading())
    assert image.tobytes() == ImageOps.exif_transpose(Image.open(path)).tobytes()


def test_damaged_exif_data_turn_nothing(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03")
    image, _ = read_image(str(path), 3, Reading())
    assert np.array_equal(np.asarray(image), RGB)


def folder_of(tmp_path: Path, kind: tuple[str, Write]) -> ImageFolderConfig:
    for i in range(12):
        path = tmp_path / ("a" if i % 2 else "b") / f"{i}{kind[0]}"
        path.parent.mkdir(exist_ok=True)
        kind[1](path)
    return ImageFolderConfig(folder=str(tmp_path), image_size=8, substitute_pool=3)


DARK = {
    "10 bits": (pillow(DEEP >> 6, ".tif"), 1023),
    "12 bits": (pillow(DEEP >> 4, ".png"), 4095),
    "14 bits": (pillow(DEEP >> 2, ".pgm"), 16383),
    "8 bits": (pillow(DEEP >> 8, ".png"), 255),
    "16 in 32 bits": (pillow(DEEP.astype(np.int32), ".tif"), 65535),
    "dark floats": (pillow((GRAY / 2550).astype(np.float32), ".tif"), 0.1),
}


@pytest.mark.parametrize("kind", DARK)
def test_a_set_that_uses_fewer_bits_than_its_files_have_is_refused_until_white_is_given(
    tmp_path: Path, kind: str
) -> None:
    file, white = DARK[kind]
    config = folder_of(tmp_path, file)
    with pytest.raises(UserError, match=r"so fewer bits are in use; set dataset\.white_level"):
        load_dataset(config)
    settings = {"white_level": float(white)}
    seen = load_dataset(ImageFolderConfig(folder=str(tmp_path), image_size=8, substitute_pool=3, **settings))
    assert seen.train.pixels().max() > 0.8


def test_one_dark_image_among_bright_ones_is_no_reason_to_refuse(tmp_path: Path) -> None:
    config = folder_of(tmp_path, pillow(DEEP, ".png"))
    Image.fromarray(DEEP >> 4).save(tmp_path / "a" / "1.png")
    assert len(load_dataset(config).train) > 0


def test_colours_of_16_bits_that_hold_12_are_refused(tmp_path: Path) -> None:
    config = folder_of(tmp_path, tiff(RGB.astype(np.uint16) * 16, photometric="rgb"))
    with pytest.raises(UserError, match="so fewer bits are in use"):
        load_dataset(config)


SAID = {
    "animations": (
        pillow(GRAY, ".gif", save_all=True, append_images=MORE),
        "of 12 image files with several frames or pages the first is read",
    ),
    "pages": (pillow(GRAY, ".tif", save_all=True, append_images=MORE), "the first is read"),
}


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("max_memory_mb", [0, 100])
def test_what_is_left_out_of_files_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, max_memory_mb: int
) -> None:
    file, message = SAID[kind]
    folder_of(tmp_path, file)
    with caplog.at_level(logging.WARNING):
        load_dataset(ImageFolderConfig(folder=str(tmp_path), image_size=8, substitute_pool=3,
                                       max_memory_mb=max_memory_mb))  # fmt: skip
    assert sum(message in text for text in caplog.messages) == 1


WHITE_INK = pillow(Image.merge("LA", [Image.new("L", (11, 9), 255), Image.fromarray(GRAY)]), ".png")


@pytest.mark.parametrize("max_memory_mb", [0, 100])
def test_a_set_of_which_nothing_is_seen_is_refused_with_the_background_that_shows_it(
    tmp_path: Path, max_memory_mb: int
) -> None:
    folder_of(tmp_path, WHITE_INK)
    settings: dict[str, Any] = {"image_size": 8, "substitute_pool": 3, "max_memory_mb": max_memory_mb}
    with pytest.raises(UserError, match=r"12 of 12 images are of one colour .*; set dataset\.background=black"):
        load_dataset(ImageFolderConfig(folder=str(tmp_path), **settings))
    dataset = load_dataset(ImageFolderConfig(folder=str(tmp_path), background="black", **settings))
    assert dataset.train.pixels().std() > 0.1


def test_a_few_images_of_which_nothing_is_seen_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = folder_of(tmp_path, pillow(GRAY, ".png"))
    WHITE_INK[1](tmp_path / "a" / "1.png")
    with caplog.at_level(logging.WARNING):
        load_dataset(config)
    assert any("1 of 12 images are of one colour on dataset.background=white" in text for text in caplog.messages)


def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (60_000, 1_000)).save(tmp_path / "wide.png")
    with pytest.raises(UserError, match=r"wide\.png is 60000x1000, 60 megapixels where at most 50 are read"):
        read_image(str(tmp_path / "wide.png"), 3, Reading())
