"""Training batches as a pure function of (seed, step): resuming and sharding over processes need no state.

Shapes: B samples (of this process, where several share a batch), N images of a part, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from rnet.data.images import Part, TensorSource
from rnet.data.lookahead import Lookahead
from rnet.data.pixels import as_pixels, images_at_once
from rnet.data.splits import seeded_permutation
from rnet.data.views import Views
from rnet.data.workers import Workers
from rnet.draws import uniform
from rnet.errors import UserError
from rnet.kernels.kept_tensors import keep_tensors

MOST_REPEATS = 64
"""A batch may be larger than its part; one that is so much larger is a slip, and would fill the memory."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """One process's share of a training batch.

    indices_B: int64 CPU indices into the part. x_BCHW: float32 pixels in [0, 1], augmented. labels_B: int64.
    flipped_B: bool, which images were mirrored. stream_ids_B: int64 CPU positions in the training stream, unique over
    all steps and processes; x, labels and flipped are on the device.
    """

    indices_B: Tensor
    x_BCHW: Tensor
    labels_B: Tensor
    flipped_B: Tensor
    stream_ids_B: Tensor

    def look_up(self, table_N2: Tensor) -> Tensor:
        """(B,): of each image its value in a table of the whole part, column 0 for images as they are, 1 for mirrored.

        table_N2: on the device.
        """
        return table_N2[self.indices_B.to(table_N2.device, non_blocking=True), self.flipped_B.long()]


class TrainingBatches:
    """`batches(step)` is the batch of any step, the same bits each time, for the process `rank` of `world_size`.

    batch_size: of all processes together. flip: mirror each image with probability 1/2. crop_padding: pad by so many
    black pixels and crop at a random place (0: no). views: random views of the images, before. 1 process with B samples
    and 2 with B/2 see the same batch. Images that fit in memory are moved to the device once; files are decoded ahead,
    in threads or, with workers above 0, in so many processes, and are bytes until they are on the device. pieces: the
    processes share so many equal pieces of the batch one after the other, so that their first micro-batches together
    are the first piece, and so on.
    """

    def __init__(
        self,
        part: Part,
        *,
        batch_size: int,
        seed: int,
        flip: bool,
        crop_padding: int = 0,
        views: Views | None = None,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pieces: int = 1,
    ) -> None:
        _check_share(batch_size, len(part), world_size)
        if batch_size % (pieces * world_size):
            raise UserError(f"batch_size={batch_size} cannot be shared equally by {world_size} x {pieces} pieces")
        if crop_padding < 0:
            raise UserError(f"crop_padding={crop_padding} must be 0 or more")
        self._part = part.views_source() if views else part.to(device)
        self._labels_N = part.labels_N.to(device)
        self.batch_size = batch_size
        self._seed = seed
        self._flip = flip
        self._crop_padding = crop_padding
        self._device = torch.device(device)
        self._rank = rank
        self._world_size = world_size
        self._views = views
        self._pieces = pieces
        self._ahead = None if isinstance(self._part.source, TensorSource) else self._prepare(workers)

    def __call__(self, step: int) -> Batch:
        indices_B, flipped_B = self._indices(step), self._flipped(step, self._device)
        return Batch(
            indices_B=indices_B,
            x_BCHW=as_pixels(self._images(step, flipped_B)),
            labels_B=self._labels_N[indices_B.to(self._device, non_blocking=True)],
            flipped_B=flipped_B,
            stream_ids_B=self._stream_ids(step),
        )

    def images(self, step: int) -> Tensor:
        """uint8 (B, C, H, W) of a step on the device, of any strides; valid until the next step is asked for."""
        return self._images(step)

    def positions(self, step: int) -> Tensor:
        """Of a step's images on this process: where they are in the data set's source, int64 on the CPU."""
        return self._part.positions_N[self._indices(step).to(self._part.positions_N.device)].cpu()

    def _images(self, step: int, flipped_B: Tensor | None = None) -> Tensor:
        if self._ahead is not None:
            return self._ahead(step)
        images_BCHW = self._fetch(step).to(self._device)
        if self._flip or self._crop_padding:
            offsets_B2 = self._offsets(step, self._device)
            flipped_B = self._flipped(step, self._device) if flipped_B is None else flipped_B
            images_BCHW = augment(images_BCHW, flipped_B, offsets_B2, crop_padding=self._crop_padding)
        return images_BCHW

    def _prepare(self, workers: int) -> Callable[[int], Tensor]:
        """What gives a step's images of files on the device."""
        local = self.batch_size // self._world_size
        one_CHW = self._part.fetch(torch.tensor([0]))[0]
        # Decoders put the colours of a pixel side by side; to take them apart is less work for the device.
        layout = torch.channels_last if self._views else torch.contiguous_format
        like = torch.empty((local, *one_CHW.shape), dtype=torch.uint8, memory_format=layout, device="meta")
        pin = self._device.type == "cuda"
        twin = copy(self)  # with self, a circle of references would keep the workers when the last batch was taken
        if workers:
            made = Workers(twin._write, like=like, workers=workers)
            return lambda step: (made(step).pin_memory() if pin else made(step)).to(twin._device, non_blocking=True)

        def write(step: int) -> Tensor:
            twin._write(step, images_BCHW := torch.empty_like(like, device="cpu", pin_memory=pin))
            return images_BCHW

        ahead = Lookahead(write)
        return lambda step: ahead(step).to(twin._device, non_blocking=True)

    def _write(self, step: int, out_BCHW: Tensor) -> None:
        """Writes the images of a step, shifted and mirrored."""
        offsets_B2, images = self._offsets(step, "cpu"), self._each(step)
        if offsets_B2 is not None:
            images = iter(shifted_crop(torch.stack([*images]), offsets_B2, self._crop_padding))
        for place_CHW, image_CHW, flipped in zip(out_BCHW, images, self._flipped(step, "cpu").tolist(), strict=True):
            place_CHW.copy_(image_CHW.flip(-1) if flipped else image_CHW)

    def _flipped(self, step: int, device: torch.device | str) -> Tensor:
        """bool (B,): which images of a step are mirrored."""
        ids_B = self._stream_ids(step)
        if not self._flip:
            return torch.zeros(len(ids_B), dtype=torch.bool, device=device)
        return uniform(self._seed, "flip", step, ids_B, 1, device=device)[:, 0] < 0.5

    def _offsets(self, step: int, device: torch.device | str) -> Tensor | None:
        """int64 (B, 2): where a step's images are cropped after padding; None if they are not."""
        if not self._crop_padding:
            return None
        places = 2 * self._crop_padding + 1
        draws_B2 = uniform(self._seed, "crop", step, self._stream_ids(step), 2, device=device)
        return (draws_B2 * places).long().clamp_(max=places - 1)

    def _fetch(self, step: int) -> Tensor:
        """uint8 (B, C, H, W) of a step, before it is mirrored and shifted."""
        return self._part.fetch(self._indices(step)) if self._views is None else torch.stack([*self._each(step)])

    def _each(self, step: int) -> Iterator[Tensor]:
        """The images of _fetch, one by one; of large ones that saves memory and time."""
        if self._views is None:
            return iter(self._part.fetch(self._indices(step)))
        ids_B = self._stream_ids(step)
        draws_BD = uniform(self._seed, "view", step, ids_B, self._views.draws, device="cpu")
        return self._part.views_of(self._indices(step), draws_BD, self._views)

    def _stream_ids(self, step: int) -> Tensor:
        piece = self.batch_size // self._pieces
        local = piece // self._world_size
        starts_P1 = (torch.arange(self._pieces) + step * self._pieces).unsqueeze(1) * piece + self._rank * local
        return (starts_P1 + torch.arange(local)).flatten()

    def _indices(self, step: int) -> Tensor:
        pieces, n = self._pieces, len(self._part)
        return torch.cat(
            [
                batch_positions(
                    self._seed, number, self.batch_size // pieces, n, rank=self._rank, world_size=self._world_size
                )
                for number in range(step * pieces, (step + 1) * pieces)
            ]
        )


def batch_positions(seed: int, step: int, batch_size: int, n: int, *, rank: int = 0, world_size: int = 1) -> Tensor:
    """int64 CPU indices (batch_size / world_size,) of a step's batch, or of one process's contiguous share of it.

    The training stream is one random permutation of 0..n-1 per epoch, one after the other; step t takes its places
    t * batch_size and following, across epochs. Raises UserError if the processes cannot share a batch equally.
    """
    _check_share(batch_size, n, world_size)
    assert step >= 0
    assert 0 <= rank < world_size
    local = batch_size // world_size
    start = step * batch_size + rank * local
    stop = start + local
    epochs = range(start // n, (stop - 1) // n + 1)
    return torch.cat([_epoch(seed, epoch, n)[max(start - epoch * n, 0) : stop - epoch * n] for epoch in epochs])


def augment(x_BCHW: Tensor, flipped_B: Tensor, offsets_B2: Tensor | None = None, *, crop_padding: int = 0) -> Tensor:
    """Images of any dtype, cropped where offsets are given (see shifted_crop) and mirrored where flipped_B says."""
    if offsets_B2 is not None:
        x_BCHW = shifted_crop(x_BCHW, offsets_B2, crop_padding)
    return torch.where(flipped_B.view(-1, 1, 1, 1), x_BCHW.flip(-1), x_BCHW)


def shifted_crop(x_BCHW: Tensor, offsets_B2: Tensor, padding: int) -> Tensor:
    """Each image padded with zeros on all sides, and of it the H x W window whose top left is its (row, column) offset.

    offsets_B2: int64 in [0, 2 * padding]; (padding, padding) gives the image itself.
    """
    batch, channels, height, width = x_BCHW.shape
    padded = torch.nn.functional.pad(x_BCHW, (padding, padding, padding, padding))
    rows_BH = offsets_B2[:, :1] + torch.arange(height, device=x_BCHW.device)
    columns_BW = offsets_B2[:, 1:] + torch.arange(width, device=x_BCHW.device)
    rows = rows_BH.view(batch, 1, height, 1).expand(-1, channels, -1, width + 2 * padding)
    columns = columns_BW.view(batch, 1, 1, width).expand(-1, channels, height, -1)
    return padded.gather(2, rows).gather(3, columns)


def evaluation_batch_size(part: Part) -> int:
    """How many images of a part go through a model together where no gradient is kept: 512 small ones, or fewer."""
    return images_at_once(part.fetch(torch.arange(min(1, len(part)))).shape[-1], 512)


def evaluation_batches(part: Part, batch_size: int, device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
    """(x, labels) over the whole part in order: float32 pixels (B, C, H, W) in [0, 1] and int64, on the device.

    The last batch is smaller where batch_size does not divide the part.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be 1 or more")
    device = torch.device(device)
    chunks = torch.arange(len(part)).split(batch_size) if len(part) else ()
    images = _ahead(part, lambda number: part.fetch(chunks[number]), device, stop=len(chunks))
    for number, indices_B in enumerate(chunks):
        yield as_pixels(images(number)), part.labels_N[indices_B].to(device, non_blocking=True)


def _ahead(part: Part, fetch: Callable[[int], Tensor], device: torch.device, *, stop: int) -> Callable[[int], Tensor]:
    """fetch(number), which gives uint8 images, on the device; those of files are decoded ahead."""
    if isinstance(part.source, TensorSource):
        return lambda number: fetch(number).to(device)
    pin = device.type == "cuda"
    ahead = Lookahead(lambda number: fetch(number).pin_memory() if pin else fetch(number), stop=stop)
    return lambda number: ahead(number).to(device, non_blocking=True)


def _check_share(batch_size: int, n: int, world_size: int) -> None:
    if n < 1:
        raise UserError("there is no image to train on; the part is empty")
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be 1 or more")
    if batch_size > MOST_REPEATS * n:
        raise UserError(f"batch_size={batch_size} holds each of the {n} images over {MOST_REPEATS} times; lower it")
    if world_size > n:
        raise UserError(f"{world_size} processes share {n} images; start at most {n} processes")
    if batch_size % world_size:
        raise UserError(
            f"batch_size={batch_size} cannot be shared equally by {world_size} processes; "
            f"use a multiple of {world_size}, e.g. {-(-batch_size // world_size) * world_size}"
        )


@keep_tensors(8)
def _epoch(seed: int, epoch: int, n: int) -> Tensor:
    """The order of the images in an epoch."""
    return seeded_permutation(n, seed, "epoch", epoch)
