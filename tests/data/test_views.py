"""Random views: torchvision's crop, the same in every process, of the whole image wherever it is kept."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import RandAugment, RandomResizedCrop

from rnet.data.batches import TrainingBatches
from rnet.data.decoding import AS_STORED, pixels_of_file, read_image
from rnet.data.folder import FolderSource
from rnet.data.images import Part
from rnet.data.views import Views
from rnet.draws import uniform
from rnet.errors import UserError

VIEWS = Views(crop_scale=(0.2, 1.0))


@pytest.fixture
def photographs(tmp_path: Path) -> Part:
    """Eleven JPEG files of several sizes, decoded on demand."""
    noise = np.random.default_rng(0)
    paths = [str(tmp_path / f"{i}.jpg") for i in range(11)]
    for i, path in enumerate(paths):
        rough = noise.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(rough).resize((40 + 3 * i, 64 - 2 * i)).save(path)
    return Part(source=FolderSource(paths, 16, 3), positions_N=torch.arange(11), labels_N=torch.arange(11) % 3)


def batches(part: Part, **changes: Any) -> TrainingBatches:
    values: dict[str, Any] = {"batch_size": 4, "seed": 5, "flip": True, "device": "cpu", "views": VIEWS}
    return TrainingBatches(part, **{**values, **changes})


def kept(part: Part) -> Part:
    assert isinstance(part.source, FolderSource)
    source, found = part.source.inspect(keep=True)
    assert not any(isinstance(one, UserError) for one in found)
    return Part(source=source, positions_N=part.positions_N, labels_N=part.labels_N)


def test_crops_are_distributed_as_torchvisions() -> None:
    draws = uniform(0, "view", 0, torch.arange(4000), VIEWS.draws, device="cpu").tolist()
    found = torch.tensor([VIEWS.box(300, 400, one) for one in draws], dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        params = RandomResizedCrop(8, scale=(0.2, 1.0)).make_params
        boxes = [params([torch.empty(3, 300, 400)]) for _ in range(4000)]
    expected = torch.tensor([[box[key] for key in ("top", "left", "height", "width")] for box in boxes]).double()
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    assert (found.quantile(quantiles, dim=0) - expected.quantile(quantiles, dim=0)).abs().max() < 12


@pytest.mark.parametrize(("height", "width", "box"), [(10, 90, (0, 38, 10, 13)), (90, 10, (38, 0, 13, 10))])
def test_where_no_crop_fits_it_is_the_largest_middle(height: int, width: int, box: tuple[int, int, int, int]) -> None:
    whole = Views(crop_scale=(1.0, 1.0))
    assert whole.box(height, width, [0.5] * whole.draws) == box


@pytest.mark.parametrize("views", [VIEWS, Views(rand_augment=9), Views(crop_scale=(0.3, 0.9), rand_augment=15)])
def test_views_are_the_same_in_memory_on_demand_in_workers_and_over_processes(photographs: Part, views: Views) -> None:
    expected = batches(kept(photographs), views=views)
    others = [batches(photographs, views=views), batches(photographs, views=views, workers=2)]
    shares = [batches(photographs, views=views, rank=r, world_size=2, workers=r) for r in range(2)]
    state = torch.get_rng_state()
    for step in (0, 1, 2, 7, 3):
        wanted = expected(step)
        for other in others:
            assert torch.equal(other(step).x_BCHW, wanted.x_BCHW)
        assert torch.equal(torch.cat([share(step).x_BCHW for share in shares]), wanted.x_BCHW)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(expected(0).x_BCHW, batches(photographs, views=None)(0).x_BCHW)


def test_randaugment_makes_what_torchvisions_makes_of_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for kind in range(14):
        draws = [0.0] * 40 + [(kind + 0.5) / 14, 0.3, ((kind + 5) % 14 + 0.5) / 14, 0.9]
        found = Views(rand_augment=11).of(image, 24, draws)
        asked = iter([kind, (kind + 5) % 14])
        operation = RandAugment(num_ops=2, magnitude=11)
        names = list(operation._AUGMENTATION_SPACE)
        signed = [operation._AUGMENTATION_SPACE[names[k]][1] for k in (kind, (kind + 5) % 14)]
        signs = iter([sign for sign, wanted in zip((0.3, 0.9), signed, strict=True) if wanted])
        monkeypatch.setattr(torch, "randint", lambda *a, asked=asked, **b: torch.tensor(next(asked)))
        monkeypatch.setattr(torch, "rand", lambda *a, signs=signs, **b: torch.tensor(next(signs)))
        expected = operation(image)
        monkeypatch.undo()
        assert torch.equal(found, expected), names[kind]


def test_every_image_comes_once_in_an_epoch_and_a_restart_goes_on_in_its_middle(photographs: Part) -> None:
    shares = [batches(photographs, batch_size=2, rank=r, world_size=2, workers=2, flip=False) for r in range(2)]
    seen = torch.cat([share(step).indices_B for step in range(11) for share in shares])
    assert sorted(seen[:11].tolist()) == sorted(seen[11:].tolist()) == list(range(11))
    again = batches(photographs, batch_size=2, rank=1, world_size=2, workers=2, flip=False)
    for step in range(7, 11):
        assert torch.equal(again(step).x_BCHW, shares[1](step).x_BCHW)


def test_a_file_that_became_unreadable_is_named_by_its_worker(photographs: Part, tmp_path: Path) -> None:
    (tmp_path / "3.jpg").write_bytes((tmp_path / "3.jpg").read_bytes()[:200])
    stream = batches(photographs, batch_size=11, workers=1)
    with pytest.raises(UserError, match=r"/3\.jpg cannot be read as an image .*Truncated"):
        stream(0)


def test_a_worker_that_is_killed_ends_the_run_with_the_remedy(photographs: Part) -> None:
    others = multiprocessing.active_children()
    stream = batches(photographs, workers=1)
    stream(0)
    (worker,) = (process.pid for process in multiprocessing.active_children() if process not in others)
    assert worker
    os.kill(worker, signal.SIGTERM)  # is not for them: who is asked to stop is the run
    stream(1)
    os.kill(worker, signal.SIGKILL)

    def go_on() -> None:
        for step in range(2, 100):
            stream(step)
            time.sleep(0.05)

    with pytest.raises((UserError, RuntimeError)) as caught:  # torch may find it at any place
        go_on()
    assert "engine.workers" in str(caught.value) or "DataLoader worker" in str(caught.value)


@pytest.mark.parametrize(
    "save",
    [
        {"quality": 30}, {"quality": 95, "subsampling": 0}, {"progressive": True}, {"mode": "L"}, {"mode": "CMYK"},
        *({"exif": orientation} for orientation in range(1, 9)),
    ],
)  # fmt: skip
def test_jpeg_files_are_decoded_to_the_bits_that_pillow_decodes(save: dict[str, Any], tmp_path: Path) -> None:
    options = dict(save)
    rough = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(rough).resize((101, 67)).convert(options.pop("mode", "RGB"))
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options["exif"] = exif
    image.save(tmp_path / "image.jpg", **options)
    expected, _ = read_image(str(tmp_path / "image.jpg"), 3, AS_STORED)
    found = pixels_of_file(str(tmp_path / "image.jpg"), 3, AS_STORED)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.array(expected))
