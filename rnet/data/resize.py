"""Brings images to the configured size and number of channels: tensors in memory, and files as they are decoded.

The shorter side is resized, to image_size or to dataset.resize, and the middle square of image_size is kept.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rnet.data.decoding import AS_STORED, Reading, see_image
from rnet.data.files.listing import Box
from rnet.data.files.names import shown
from rnet.errors import UserError

# ITU-R BT.601 luma, the weights of PIL's mode "L".
_LUMA = (0.299, 0.587, 0.114)

_IMAGES_AT_ONCE = 1024

_MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**26)
"""Where Pillow refuses to decode, as the memory may not suffice."""


def fit_images(
    images_NCHW: Tensor, image_size: int, *, grayscale: bool, resize: int | None = None, interpolation: str = "bilinear"
) -> Tensor:
    """uint8 (N, C, S, S) on the same device, S = image_size; C becomes 1 if grayscale. Copies only what changes."""
    _, channels, height, width = images_NCHW.shape
    to_gray = grayscale and channels == 3
    if (height, width) == (image_size, image_size) and resize in (None, image_size) and not to_gray:
        return images_NCHW
    chunks = images_NCHW.split(_IMAGES_AT_ONCE)
    if resize is None and interpolation == "bilinear":
        return torch.cat([_fit_chunk(chunk, image_size, to_gray=to_gray) for chunk in chunks])
    grays = (_luma(chunk).round().to(torch.uint8) if to_gray else chunk for chunk in chunks)
    return torch.cat([_fit_planes(chunk, image_size, resize, interpolation) for chunk in grays])


def decode_image(
    path: str,
    image_size: int,
    channels: int,
    reading: Reading = AS_STORED,
    *,
    resize: int | None = None,
    interpolation: str = "bilinear",
    box: Box | None = None,
) -> Tensor:
    """uint8 (C, S, S) of an image file, as RGB or, with one channel, luma. Raises UserError naming a damaged file.

    box: what is cut out of the image, as far as it lies in it.
    """
    image = see_image(path, channels, reading)
    return fit_file(image, path, image_size, channels, resize=resize, interpolation=interpolation, box=box)


def fit_file(
    image: Image.Image, path: str, image_size: int, channels: int, *, resize: int | None, interpolation: str,
    box: Box | None,
) -> Tensor:  # fmt: skip
    """decode_image, of a file whose image has been decoded."""
    if box is not None:
        image = image.crop(within(box, path, image.width, image.height))
    shorter, longer = sorted(image.size)
    if longer / shorter * (resize or image_size) ** 2 > _MOST_PIXELS:
        raise UserError(
            f"{shown(path)} is {image.width}x{image.height}, too narrow to resize its shorter side to "
            f"{resize or image_size}, which makes {longer / shorter * (resize or image_size):,.0f} of the longer one; "
            f"crop or remove it"
        )
    fitted = fit_image(image, image_size, resize=resize, interpolation=interpolation)
    pixels_HWC = np.array(fitted).reshape(image_size, image_size, channels)
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1)


def within(box: Box, path: str, width: int, height: int) -> Box:
    """The part of a box that lies in the image. Raises UserError if nothing does."""
    left, top, right, bottom = max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])
    if left >= right or top >= bottom:
        raise UserError(f"{shown(path)} is {width}x{height}, and its box {box} has nothing of it; correct the box")
    return left, top, right, bottom


def fit_image(image: Image.Image, image_size: int, *, resize: int | None, interpolation: str) -> Image.Image:
    """The middle square of the image, resized.

    With resize or another interpolation: torchvision's Resize (antialiased) and CenterCrop, to the pixel. At the
    defaults the longer side is rounded and not cut off, one pixel more in some images, as rnet has always done.
    """
    as_torchvision = resize is not None or interpolation != "bilinear"
    if not as_torchvision and image.size == (image_size, image_size):
        return image
    shorter, wanted = min(image.size), resize or image_size
    if as_torchvision:
        width, height = (wanted if side == shorter else int(wanted * side / shorter) for side in image.size)
        left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    else:
        width, height = (_resized(side, shorter, wanted) for side in image.size)
        left, top = (width - image_size) // 2, (height - image_size) // 2
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling[interpolation.upper()])
    return image.crop((left, top, left + image_size, top + image_size))


def _fit_planes(images_NCHW: Tensor, image_size: int, resize: int | None, interpolation: str) -> Tensor:
    """Every channel as Pillow resizes it, which is how it resizes colours."""
    planes = images_NCHW.flatten(0, 1).cpu().numpy()
    fitted = [np.array(fit_image(Image.fromarray(plane), image_size, resize=resize, interpolation=interpolation))
              for plane in planes]  # fmt: skip
    stacked = torch.from_numpy(np.stack(fitted)).to(images_NCHW.device)
    return stacked.view(len(images_NCHW), -1, image_size, image_size)


def _fit_chunk(images_NCHW: Tensor, image_size: int, *, to_gray: bool) -> Tensor:
    x_NCHW = _luma(images_NCHW) if to_gray else images_NCHW.float()
    height, width = (_resized(side, min(x_NCHW.shape[2:]), image_size) for side in x_NCHW.shape[2:])
    if (height, width) != x_NCHW.shape[2:]:
        x_NCHW = F.interpolate(x_NCHW, (height, width), mode="bilinear", align_corners=False, antialias=True)
    top, left = (height - image_size) // 2, (width - image_size) // 2
    x_NCHW = x_NCHW[:, :, top : top + image_size, left : left + image_size]
    return x_NCHW.round().clamp(0, 255).to(torch.uint8)


def _luma(images_NCHW: Tensor) -> Tensor:
    x_NCHW = images_NCHW.float()
    return (x_NCHW * x_NCHW.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _resized(side: int, shorter: int, image_size: int) -> int:
    """The length of a side once the shorter side is image_size."""
    return max(image_size, round(side * image_size / shorter))
