"""The training stream and its augmentation: pure functions of (seed, step), the same however they are shared out."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rnet.data.batches import TrainingBatches, augment, batch_positions, evaluation_batches, shifted_crop
from rnet.data.folder import FolderSource
from rnet.data.images import Part
from rnet.errors import UserError


def batches(part: Part, **changes: Any) -> TrainingBatches:
    values = {"batch_size": 6, "seed": 5, "flip": True, "crop_padding": 2, "device": "cpu"}
    return TrainingBatches(part, **{**values, **changes})


def plain_augment(image_CHW: np.ndarray, flipped: bool, offset: tuple[int, int], padding: int) -> np.ndarray:
    """Pixel by pixel: pixel (h, w) of the crop is pixel (h + row - padding, w + column - padding) of the image."""
    channels, height, width = image_CHW.shape
    out = np.zeros_like(image_CHW)
    for c in range(channels):
        for h in range(height):
            for w in range(width):
                row, column = h + offset[0] - padding, w + offset[1] - padding
                if 0 <= row < height and 0 <= column < width:
                    out[c, h, width - 1 - w if flipped else w] = image_CHW[c, row, column]
    return out


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 60), seed=st.integers(0, 2**63 - 1))
def test_every_image_comes_exactly_once_per_epoch(n: int, batch_size: int, seed: int) -> None:
    steps = -(-3 * n // batch_size)
    stream = torch.cat([batch_positions(seed, step, batch_size, n) for step in range(steps)])[: 3 * n]
    for epoch in stream.split(n):
        assert sorted(epoch.tolist()) == list(range(n))


@settings(deadline=None, max_examples=40)
@given(n=st.integers(5, 40), local=st.integers(1, 12), world_size=st.integers(1, 5), step=st.integers(0, 10**6))
def test_the_shares_of_all_processes_are_the_whole_batch(n: int, local: int, world_size: int, step: int) -> None:
    shares = [
        batch_positions(3, step, local * world_size, n, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert all(len(share) == local for share in shares)
    assert torch.equal(torch.cat(shares), batch_positions(3, step, local * world_size, n))


def test_epochs_and_seeds_have_different_orders() -> None:
    first, second, other = batch_positions(0, 0, 50, 50), batch_positions(0, 1, 50, 50), batch_positions(1, 0, 50, 50)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.equal(second, other)


def test_the_stream_leaves_the_global_random_state_alone_and_hands_out_copies() -> None:
    before = torch.get_rng_state()
    positions = batch_positions(0, 0, 8, 8)
    kept = positions.clone()
    positions.zero_()
    assert torch.equal(batch_positions(0, 0, 8, 8), kept)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 7, "world_size": 2}, "batch_size=7 cannot be shared equally by 2 processes.*e.g. 8"),
        ({"batch_size": 0}, "batch_size=0 must be 1 or more"),
        ({"batch_size": 10**9}, "over 64 times"),
        ({"crop_padding": -1}, "crop_padding=-1 must be 0 or more"),
    ],
)
def test_impossible_batches_are_refused(make_part: Any, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        batches(make_part(10), **changes)


def test_an_empty_part_is_refused(make_part: Any) -> None:
    with pytest.raises(UserError, match="the part is empty"):
        batches(make_part(10).subset(torch.arange(0)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentation_moves_every_pixel_as_a_plain_loop_does(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 256, (20, 3, 4, 6), generator=generator).to(dtype)
    flipped = torch.rand(20, generator=generator) < 0.5
    offsets = torch.randint(0, 5, (20, 2), generator=generator)
    offsets[0] = torch.tensor([0, 4])
    found = augment(x, flipped, offsets, crop_padding=2)
    assert found.dtype == dtype
    for i in range(20):
        expected = plain_augment(x[i].numpy(), bool(flipped[i]), tuple(offsets[i].tolist()), 2)
        assert np.array_equal(found[i].numpy(), expected)


def test_the_middle_offset_is_the_image_itself() -> None:
    x = torch.rand(3, 2, 5, 5)
    assert torch.equal(shifted_crop(x, torch.full((3, 2), 4), 4), x)


def test_a_batch_holds_the_augmented_pixels_and_labels_of_its_indices(make_part: Any) -> None:
    part = make_part(20, channels=2)
    stream = batches(part)
    for step in (0, 7):
        batch = stream(step)
        assert torch.equal(batch.indices_B, batch_positions(5, step, 6, 20))
        assert batch.labels_B.tolist() == [index % 3 for index in batch.indices_B.tolist()]
        assert batch.x_BCHW.dtype == torch.float32
        for i, index in enumerate(batch.indices_B.tolist()):
            image = part.fetch(torch.tensor([index]))[0].numpy()
            found = (batch.x_BCHW[i] * 255).round().byte().numpy()
            candidates = [
                plain_augment(image, bool(batch.flipped_B[i]), (row, column), 2)
                for row in range(5)
                for column in range(5)
            ]
            assert any(np.array_equal(found, candidate) for candidate in candidates)


def test_without_augmentation_a_batch_is_the_plain_pixels(make_part: Any) -> None:
    part = make_part(20)
    batch = batches(part, flip=False, crop_padding=0)(3)
    assert torch.equal(batch.x_BCHW, part.pixels(batch.indices_B))
    assert not batch.flipped_B.any()


def test_half_of_the_images_are_flipped_and_all_offsets_occur(make_part: Any) -> None:
    part = make_part(200, height=5, width=5)
    flipped = torch.cat([batches(part, batch_size=200)(step).flipped_B for step in range(10)])
    assert 0.45 < flipped.float().mean().item() < 0.55
    # A single bright pixel in the middle of a black image shows the offset.
    part.source.images_NCHW.zero_()
    part.source.images_NCHW[:, 0, 2, 2] = 255
    x = torch.cat([batches(part, batch_size=200, flip=False)(step).x_BCHW for step in range(10)])
    hits_HW = x[:, 0].sum(dim=0)
    assert hits_HW.sum().item() == 2000
    assert hits_HW.min().item() > 40  # 80 expected, standard deviation 8.8


def same(one: Any, other: Any) -> bool:
    names = ("indices_B", "x_BCHW", "labels_B", "flipped_B", "stream_ids_B")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def test_a_batch_depends_on_seed_and_step_only(make_part: Any) -> None:
    part = make_part(20)
    stream = batches(part)
    forwards = [stream(step) for step in range(8)]
    assert all(same(batches(part)(step), forwards[step]) for step in reversed(range(8)))
    assert not same(batches(part, seed=6)(0), forwards[0])


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_together_see_the_batch_of_one(make_part: Any, world_size: int) -> None:
    part = make_part(20)
    for step in range(5):  # step 3 crosses into the second epoch
        whole = batches(part)(step)
        shares = [batches(part, rank=rank, world_size=world_size)(step) for rank in range(world_size)]
        for name in ("indices_B", "x_BCHW", "labels_B", "flipped_B", "stream_ids_B"):
            assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(whole, name))


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_pieces_of_all_processes_together_are_those_of_the_batch(make_part: Any, world_size: int) -> None:
    """The first micro-batches of all processes hold the first half of the batch, with the same pixels."""
    part = make_part(23)
    whole = batches(part, batch_size=8, flip=True, crop_padding=1)
    shares = [
        batches(part, batch_size=8, flip=True, crop_padding=1, rank=rank, world_size=world_size, pieces=2)
        for rank in range(world_size)
    ]
    for step in range(7):
        expected, parts = whole(step), [share(step) for share in shares]
        for name in ("indices_B", "x_BCHW", "labels_B", "flipped_B", "stream_ids_B"):
            halves = [getattr(part, name).chunk(2) for part in parts]
            found = torch.cat([half[piece] for piece in (0, 1) for half in halves])
            assert torch.equal(found, getattr(expected, name)), name


def test_stream_ids_are_unique_over_steps(make_part: Any) -> None:
    stream = batches(make_part(4))
    assert torch.cat([stream(step).stream_ids_B for step in range(5)]).tolist() == list(range(30))


def test_an_image_is_augmented_anew_each_time_it_comes(make_part: Any) -> None:
    part = make_part(1, height=8, width=8)
    x = batches(part, batch_size=32)(0).x_BCHW
    assert len({pixels.numpy().tobytes() for pixels in x}) > 10


@pytest.fixture
def two_parts(tmp_path: Path, write_image: Any) -> tuple[Part, Part]:
    """The same thirteen files, decoded on demand and kept in memory, seen in reverse order."""
    paths = [tmp_path / f"{i}.png" for i in range(13)]
    for i, path in enumerate(paths):
        write_image(path, i)
    files = FolderSource([str(path) for path in paths], 7, 3)
    order, labels = torch.arange(13).flip(0), torch.arange(13) % 4
    return (
        Part(source=files, positions_N=order, labels_N=labels),
        Part(source=files.inspect(keep=True)[0], positions_N=order, labels_N=labels),
    )


def test_files_decoded_on_demand_give_the_batches_of_images_in_memory(two_parts: tuple[Part, Part]) -> None:
    on_demand, kept = (batches(part) for part in two_parts)
    for step in (0, 1, 2, 9, 3, 3):  # in order, ahead, back and the same again
        assert same(on_demand(step), kept(step))


def test_files_that_fit_in_memory_are_decoded_once(two_parts: tuple[Part, Part], monkeypatch: Any) -> None:
    on_demand, kept = two_parts
    assert isinstance(on_demand.source, FolderSource)
    decoded: list[str] = []
    original = FolderSource._decode
    monkeypatch.setattr(FolderSource, "_decode", lambda self, path: decoded.append(path) or original(self, path))
    small = Part(
        source=replace(on_demand.source, memory_mb=1), positions_N=on_demand.positions_N, labels_N=on_demand.labels_N
    )
    stream, expected = batches(small, workers=2), batches(kept)
    for step in range(10):
        assert same(stream(step), expected(step))
    assert sorted(decoded) == sorted(on_demand.source.paths)


HOLDING = """
import sys, torch
from rnet.data.batches import TrainingBatches
from rnet.data.folder import FolderSource
from rnet.data.images import Part
paths, ending = sys.argv[2:], sys.argv[1]
labels = torch.arange(len(paths))
part = Part(source=FolderSource(paths, 7, 3), positions_N=labels, labels_N=labels)
batches = TrainingBatches(part, batch_size=4, seed=0, flip=True, device="cpu", workers=2)
batches(0)
if ending == "error":
    raise ValueError
"""


@pytest.mark.parametrize("ending", ["end", "error"])
def test_a_program_ends_although_it_holds_batches_of_workers(ending: str, two_parts: tuple[Part, Part]) -> None:
    source = two_parts[0].source
    assert isinstance(source, FolderSource)
    done = subprocess.run([sys.executable, "-c", HOLDING, ending, *source.paths], timeout=300, capture_output=True)
    assert done.returncode == (ending == "error"), done.stderr


def test_evaluation_covers_the_part_once_in_order(two_parts: tuple[Part, Part]) -> None:
    for part in two_parts:
        pairs: list[tuple[Tensor, Tensor]] = list(evaluation_batches(part, 5, "cpu"))
        assert [len(x) for x, _ in pairs] == [5, 5, 3]
        assert torch.equal(torch.cat([x for x, _ in pairs]), part.pixels())
        assert torch.equal(torch.cat([labels for _, labels in pairs]), part.labels_N)


def test_evaluating_an_empty_part_yields_nothing(make_part: Any) -> None:
    assert list(evaluation_batches(make_part(3).subset(torch.arange(0)), 5, "cpu")) == []


def test_an_evaluation_batch_size_below_one_is_refused(make_part: Any) -> None:
    with pytest.raises(UserError, match="batch_size=0 must be 1 or more"):
        next(evaluation_batches(make_part(3), 0, "cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_on_the_gpu_has_the_same_bits(two_parts: tuple[Part, Part]) -> None:
    for part in two_parts:
        on_cpu, on_gpu = batches(part), batches(part, device="cuda")
        for step in range(4):
            found, expected = on_gpu(step), on_cpu(step)
            for name in ("x_BCHW", "labels_B", "flipped_B"):
                assert getattr(found, name).is_cuda
                assert torch.equal(getattr(found, name).cpu(), getattr(expected, name))
        for found_pair, expected_pair in zip(
            evaluation_batches(part, 5, "cuda"), evaluation_batches(part, 5, "cpu"), strict=True
        ):
            assert all(torch.equal(one.cpu(), other) for one, other in zip(found_pair, expected_pair, strict=True))


def test_more_processes_than_images_are_refused() -> None:
    with pytest.raises(UserError, match="5 processes share 4 images; start at most 4"):
        batch_positions(0, 0, 5, 4, rank=0, world_size=5)
