"""Image files as a person sees them: any mode that Pillow decodes, as 8-bit RGB or luma, upright and without holes.

Files of more than 8 bits are scaled so that white becomes 255. What shows through transparency is dataset.background.
Of several frames the first is read. Embedded colour profiles are passed over, as torchvision and timm do.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from rnet.data.config import DatasetConfig, background_rgb
from rnet.data.files.names import shown
from rnet.data.files.shards import Member, content_of
from rnet.data.files.suffixes import decodable_formats
from rnet.errors import UserError, first_line

_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
_FRAMES_OF = ("GIF", "WEBP", "PNG", "TIFF", "AVIF", "FLI")
"""Formats of animations and pages. The further pictures of phones' JPEG files are previews."""

MOST_PIXELS = 50_000_000
"""Of an image that is read: what a small file claims to hold must not fill the memory."""

_AT_ONCE = 2**20
"""Pixels that are scaled to 8 bits at once."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What turns an image upright, by the orientation that EXIF gives it."""
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 258, 262, 339


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read. background: RGB behind transparency. white_level: dataset.white_level."""

    background: tuple[int, int, int] = (255, 255, 255)
    white_level: float | None = None

    @classmethod
    def of(cls, config: DatasetConfig) -> Reading:
        """As a configuration says."""
        return cls(background=background_rgb(config.background), white_level=config.white_level)


AS_STORED = Reading()
"""The defaults of the settings."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was found in a file. pixels: a digest of the decoded image at full size.

    frames: how many it has. peak: its highest value as a share of white, for files of more than 8 bits, else None.
    vanished: whether it is of one colour on this background although its transparency has a shape.
    """

    pixels: str
    frames: int = 1
    peak: float | None = None
    vanished: bool = False


def read_image(path: str, channels: int, reading: Reading) -> tuple[Image.Image, Facts]:
    """The image at full size, of mode RGB or, with one channel, L. Raises UserError naming what is not readable."""
    found, facts = _read(path, channels, reading)
    digest = hashlib.blake2b(repr((found.mode, found.size)).encode(), digest_size=12)
    digest.update(found.tobytes())
    return found, replace(facts, pixels=digest.hexdigest())


def see_image(path: str, channels: int, reading: Reading) -> Image.Image:
    """The image of read_image, whose digest is known or not wanted: it takes as long as the decoding."""
    return _read(path, channels, reading)[0]


def pixels_of_file(path: str, channels: int, reading: Reading) -> Tensor:
    """uint8 (C, H, W), the pixels of read_image. Ordinary JPEG files are decoded by torchvision, to the same bits.

    Raises UserError naming what is not readable.
    """
    if channels == 3 and (found := _jpeg(path)) is not None:
        return found
    values = np.array(see_image(path, channels, reading))
    return torch.from_numpy(values.reshape(*values.shape[:2], channels)).permute(2, 0, 1)


def _jpeg(path: str) -> Tensor | None:
    """RGB of a JPEG file that is upright and of a size that Pillow decodes, too; None for all others, and damaged ones.

    libjpeg-turbo is in both libraries; torchvision's is called without the interpreter's lock.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        content = content_of(path)
        if not content.startswith(b"\xff\xd8\xff"):
            return None
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as file:
            if file.width * file.height > MOST_PIXELS:
                return None
            if file.mode not in ("RGB", "L") or file.getexif().get(_ORIENTATION, 1) in _UPRIGHT:
                return None
        return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except Exception:  # the decoders raise anything on damaged files; Pillow's way says what is wrong
        return None


def _require_size(file: Any) -> None:
    if file.width * file.height > MOST_PIXELS:
        raise _Refused(
            f"is {file.width}x{file.height}, {file.width * file.height / 1e6:.0f} megapixels where at most "
            f"{MOST_PIXELS / 1e6:.0f} are read; make it smaller"
        )


def _opened(path: str) -> str | io.BytesIO:
    return io.BytesIO(path.read()) if isinstance(path, Member) else path


def _read(path: str, channels: int, reading: Reading) -> tuple[Image.Image, Facts]:
    """The image, and all facts but its digest."""
    try:
        with Image.open(_opened(path), formats=decodable_formats()) as file:
            _require_size(file)
            frames = getattr(file, "n_frames", 1) if file.format in _FRAMES_OF else 1
            raw_mode = _raw_mode(file)
            file.load()
            found, peak, vanished = _visible(_upright(file), file, raw_mode, "L" if channels == 1 else "RGB", reading)
    except _Refused as error:
        raise UserError(f"{shown(path)} {error}") from None
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise unreadable(path, error) from error
    return found, Facts(pixels="", frames=frames, peak=peak, vanished=vanished)


def unreadable(path: str, error: Exception) -> UserError:
    """Returns the error for a file that is damaged, empty, or no image."""
    reason = (error.strerror if isinstance(error, OSError) and error.strerror else None) or first_line(error)
    if isinstance(error, UnidentifiedImageError):
        empty = (path.size if isinstance(path, Member) else os.path.getsize(path)) == 0
        reason = "the file is empty" if empty else "its content is no image that can be decoded here"
    return UserError(f"{shown(path)} cannot be read as an image ({shown(reason)}); replace or remove the file")


def keep_pillow_quiet() -> None:
    """Damage that matters is raised; Pillow's warnings about the rest would come by the thousand."""
    warnings.filterwarnings("ignore", module=r"PIL\b")


class _Refused(Exception):
    """What a file that can be decoded has that cannot be shown right; the file's name precedes it."""


def _visible(
    image: Image.Image, file: Any, raw_mode: str, mode: str, reading: Reading
) -> tuple[Image.Image, float | None, bool]:
    """The image in the mode, its peak, and whether it vanished on the background."""
    peak = None
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        values = _unsigned(np.asarray(image), file)
        image_8bit, peak = _to_8_bits(values, file, reading.white_level)
        transparent = image.info.get("transparency")
        image = Image.fromarray(image_8bit)
        if isinstance(transparent, int):
            image.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    elif ";16" in raw_mode:
        if reading.white_level not in (None, 65535):
            raise _Refused(
                f"has colours of 16 bits, of which the upper 8 are read, so that dataset.white_level="
                f"{reading.white_level:g} cannot be kept; convert it to 8 bits or remove the setting"
            )
        if isinstance(image.info.get("transparency"), tuple):
            raise _Refused("has colours of 16 bits of which one is transparent; convert it to 8 bits or to RGBA")
        peak = max(high for _, high in _extrema(image.convert("RGB"))) / 255
    elif image.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        image = ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        colours = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        alpha = colours.getchannel("A").getextrema()
        if alpha != (255, 255):
            behind = Image.new("RGBA", colours.size, (*reading.background, 255))
            image = Image.alpha_composite(behind, colours).convert("RGB")
            flat = all(low == high for low, high in _extrema(image))
            return image.convert(mode), peak, flat and alpha[0] != alpha[1]
    return image.convert(mode), peak, False


def _to_8_bits(values_HW: np.ndarray, file: Any, white_level: float | None) -> tuple[np.ndarray, float]:
    """uint8 (H, W), and the highest value as a share of white."""
    white = _white(values_HW, file) if white_level is None else white_level
    if not np.isfinite(values_HW).all():
        raise _Refused("holds values that are no finite numbers; replace or remove the file")
    low, high = float(values_HW.min()), float(values_HW.max())
    slack = white / 510 if values_HW.dtype.kind == "f" else 0  # half a grey level of 8 bits, as resampling leaves it
    if low < -slack or high > white + slack:
        raise _Refused(
            f"holds values from {low:g} to {high:g}, but black is 0 and white is {white:g}; "
            + (
                "shift its values to 0 and above"
                if low < -slack
                else f"set dataset.white_level, e.g. to {_above(high):g}"
            )
        )
    inverted = file.format == "TIFF" and file.tag_v2.get(_PHOTOMETRIC) == 0
    levels = np.empty(values_HW.size, np.uint8)
    flat = values_HW.reshape(-1)
    for start in range(0, flat.size, _AT_ONCE):  # as float64 the whole image would be eight times its size
        values = flat[start : start + _AT_ONCE].astype(np.float64)
        levels[start : start + _AT_ONCE] = np.rint((white - values if inverted else values) * (255 / white)).clip(
            0, 255
        )
    return levels.reshape(values_HW.shape), high / white


def _white(values_HW: np.ndarray, file: Any) -> float:
    """The value of white in the file's format."""
    if values_HW.dtype.kind == "f":
        return 1.0
    bits = 8 * values_HW.dtype.itemsize
    if file.format == "TIFF":
        bits = file.tag_v2.get(_BITS_PER_SAMPLE, (bits,))[0]
    elif file.format in ("PNG", "PPM"):
        bits = 16  # which Pillow may keep in 32
    signed = file.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] == 2 if file.format == "TIFF" else bits == 32
    return float(2 ** (bits - signed) - 1)


def _unsigned(values_HW: np.ndarray, file: Any) -> np.ndarray:
    """32-bit values that a TIFF file declares unsigned, which Pillow keeps as signed."""
    if file.format == "TIFF" and values_HW.dtype == np.int32 and file.tag_v2.get(_BITS_PER_SAMPLE, (0,))[0] == 32:
        return values_HW if file.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] == 2 else values_HW.view(np.uint32)
    return values_HW


def _above(value: float) -> float:
    """The usual level of white that holds the value: 1, or all bits of a number of them set."""
    return (
        1
        if value <= 1
        else float(next(2**bits - 1 for bits in (8, 10, 12, 14, 16, *range(17, 1025)) if 2**bits > value))
    )


def _upright(image: Any) -> Image.Image:
    """Turned as EXIF says; EXIF data that cannot be read say nothing, as to other viewers."""
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow raises anything on damaged EXIF data
        method = None
    return image if method is None else image.transpose(method)


def _raw_mode(file: Any) -> str:
    """How the file stores its pixels, in Pillow's words: "RGB;16B" and the like."""
    arguments = file.tile[0][3] if file.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _extrema(image: Image.Image) -> list[tuple[float, float]]:
    found: Any = image.getextrema()
    return [found] if not isinstance(found[0], tuple) else list(found)
