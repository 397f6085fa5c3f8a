"""ZEST's inputs: what quickshift sees of an image, its segments, and images with some of them taken out.

Shapes: N images, C channels, H height, W width, S masks per image, M most segments of any image, B images of one
forward pass, P = ceil(M / 8) bytes of a packed mask.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from skimage.segmentation import quickshift
from torch import Tensor

from rnet.data.images import Dataset
from rnet.defenses.base import Fingerprint
from rnet.defenses.zest.config import ZestConfig
from rnet.errors import UserError


def colours_of(images_NCHW: Tensor, dataset: Dataset, segmented: str) -> Tensor:
    """What is segmented: float64 colours in [0, 255], the scale that quickshift's distances are meant for.

    segmented="first_three": of images that were normalised by channel, the first gets its first channel's scale back
    in all channels, the second the second's, the third the third's, the others none; then all are cut at [0, 1].
    """
    x_NCHW = images_NCHW.double() / 255
    if segmented == "first_three":
        mean_C11 = torch.tensor(dataset.mean_C, dtype=torch.float64).view(-1, 1, 1)
        std_C11 = torch.tensor(dataset.std_C, dtype=torch.float64).view(-1, 1, 1)
        x_NCHW = (x_NCHW - mean_C11) / std_C11
        for x_CHW, mean, std in zip(x_NCHW, dataset.mean_C, dataset.std_C, strict=False):
            x_CHW.mul_(std).add_(mean)
        x_NCHW = x_NCHW.clamp(0, 1)
    return x_NCHW * 255


def segment(colours_NCHW: Tensor, config: ZestConfig) -> tuple[Tensor, Tensor]:
    """Superpixels by quickshift: the segment 0, 1, ... of each pixel (N, H, W) int32 and their number (N,) int64.

    colours_NCHW: float64 in [0, 255]; grey images are repeated to three channels. Quickshift's tie-breaking noise has
    skimage's fixed seed, so segments depend on the image only. Images are shared among torch's number of threads.
    """
    channels = colours_NCHW.shape[1]
    if channels not in (1, 3):
        raise UserError(f"defense=zest segments colour or grey images, not images of {channels} channels")

    def one(colours_CHW: Tensor) -> Tensor:
        image_HWC = colours_CHW.expand(3, -1, -1).permute(1, 2, 0).numpy()
        segments_HW = quickshift(
            image_HWC, kernel_size=config.kernel_size, max_dist=config.max_dist, ratio=config.ratio, rng=42
        )
        return torch.from_numpy(segments_HW.astype(np.int32))

    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        segments_NHW = torch.stack(list(pool.map(one, colours_NCHW.cpu())))
    return segments_NHW, segments_NHW.flatten(1).amax(dim=1).long() + 1


def draw_masks(num_segments_N: Tensor, num_masks: int, generator: torch.Generator) -> Tensor:
    """Bernoulli(1/2) masks (N, S, M) uint8, 1 where a segment is there; the first of an image is all ones.

    Padding is 0. An image's masks depend on the images before it only.
    """
    masks_NSM = torch.zeros(len(num_segments_N), num_masks, int(num_segments_N.max()), dtype=torch.uint8)
    for masks_SM, count in zip(masks_NSM, num_segments_N.tolist(), strict=True):
        masks_SM[:, :count] = torch.randint(0, 2, (num_masks, count), dtype=torch.uint8, generator=generator)
        masks_SM[0, :count] = 1
    return masks_NSM


def pack_masks(masks_NSM: Tensor) -> Tensor:
    """Masks as they are stored: (N, S, P) uint8, bit b of byte p says whether segment 8p + b is there."""
    return torch.from_numpy(np.packbits(masks_NSM.numpy(), axis=-1, bitorder="little"))


def unpack_masks(fingerprint: Fingerprint) -> Tensor:
    """The stored masks (N, S, M) uint8 with entries 0 and 1."""
    most = int(fingerprint.tensors["num_segments_N"].max())
    packed_NSP = fingerprint.tensors["masks_NSP"].numpy()
    return torch.from_numpy(np.unpackbits(packed_NSP, axis=-1, count=most, bitorder="little"))


def masked(x_CHW: Tensor, segments_HW: Tensor, masks_BM: Tensor, mean_C: Tensor) -> Tensor:
    """One image under B masks (B, C, H, W): pixels of absent segments take the mean colour."""
    keep_BHW = masks_BM.bool()[:, segments_HW.long()]
    return torch.where(keep_BHW[:, None], x_CHW, mean_C[:, None, None])
