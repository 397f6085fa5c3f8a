"""idx files and Fashion-MNIST: files written by hand byte for byte, damaged ones, and the real set where installed."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from rnet.data.config import FashionMNISTConfig
from rnet.data.datasets.fashion_mnist import read_idx
from rnet.data.files import fashion_mnist
from rnet.data.loading import load_dataset
from rnet.errors import UserError

# Two images of 2 rows and 3 columns.
IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(range(250, 256)) + bytes(range(6))


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def labels(*values: int) -> bytes:
    return bytes([0, 0, 8, 1, 0, 0, 0, len(values), *values])


def images(count: int) -> bytes:
    return bytes([0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(i % 256 for i in range(4 * count))


def write_set(folder: Path, suffix: str = "") -> None:
    for part, count in (("train", 12), ("t10k", 4)):
        write(folder / f"{part}-images-idx3-ubyte{suffix}", images(count))
        write(folder / f"{part}-labels-idx1-ubyte{suffix}", labels(*(i % 10 for i in range(count))))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_file_is_read_in_row_major_order(tmp_path: Path, suffix: str) -> None:
    found = read_idx(write(tmp_path / f"images{suffix}", IMAGES), dims=3)
    assert found.dtype == torch.uint8
    assert found.tolist() == [[[250, 251, 252], [253, 254, 255]], [[0, 1, 2], [3, 4, 5]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IMAGES[:-1], "announces 2x2x3 = 12 bytes but holds 11"),
        (IMAGES + b"x", "announces 2x2x3 = 12 bytes but holds more"),
        (IMAGES[:10], "not an idx file"),
        (b"", "not an idx file"),
        (labels(1, 2, 3), "not an idx file of bytes in 3 dimensions"),
        (b"\0\0\x0d" + IMAGES[3:], "not an idx file"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"images.* {message}.*replace it"):
        read_idx(write(tmp_path / "images", content), dims=3)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"hello", lambda b: b[:12] + b"\xff" * 9 + b[21:]])
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(IMAGES)))
    with pytest.raises(UserError, match=r"images\.gz cannot be read .*replace it"):
        read_idx(path, dims=3)


@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_four_files_are_found_in_the_users_folder(tmp_path: Path, below: str, suffix: str) -> None:
    write_set(tmp_path / below, suffix)
    dataset = load_dataset(FashionMNISTConfig(folder=str(tmp_path), substitute_pool=5))
    assert (len(dataset.train), len(dataset.substitute), len(dataset.test)) == (7, 5, 4)
    for part in (dataset.train, dataset.substitute, dataset.test):
        for i, position in enumerate(part.positions_N.tolist()):
            assert part.labels_N[i] == position % 10
            assert part.fetch(torch.tensor([i])).flatten().tolist() == [4 * position + k for k in range(4)]


def test_missing_files_are_named_with_every_remedy(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError) as error:
        load_dataset(FashionMNISTConfig(folder=str(tmp_path)))
    for expected in (
        f"{tmp_path} (lacks t10k-labels-idx1-ubyte)",
        f"{tmp_path}/FashionMNIST/raw (no such folder)",
        "dataset-fashion-mnist",
        "dataset.folder",
        "dataset.download=true",
    ):
        assert expected in str(error.value)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path)
    write(tmp_path / "train-labels-idx1-ubyte", labels(1, 2, 3))
    with pytest.raises(UserError, match=r"holds 12 images but .*train-labels-idx1-ubyte 3 labels"):
        load_dataset(FashionMNISTConfig(folder=str(tmp_path)))


def test_labels_above_nine_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path)
    write(tmp_path / "t10k-labels-idx1-ubyte", labels(1, 2, 3, 10))
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte is empty or holds labels above 9"):
        load_dataset(FashionMNISTConfig(folder=str(tmp_path)))


def test_a_download_goes_to_the_folder_and_is_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(folder: str, download: bool) -> None:
        assert download
        write_set(Path(folder) / "FashionMNIST" / "raw")

    monkeypatch.setattr(fashion_mnist, "_download", download)
    config = FashionMNISTConfig(folder=str(tmp_path / "new"), download=True, substitute_pool=5)
    assert len(load_dataset(config).train) == 7


def test_a_download_that_fails_is_a_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: str, download: bool) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(fashion_mnist, "_download", fail)
    with pytest.raises(UserError, match=r"could not be downloaded to .*: no route to host; put the four idx files"):
        load_dataset(FashionMNISTConfig(folder=str(tmp_path), download=True))


@pytest.mark.skipif(
    bool(fashion_mnist.missing(fashion_mnist.SYSTEM_FOLDER)), reason="apt package dataset-fashion-mnist not installed"
)
def test_the_real_set_is_complete() -> None:
    dataset = load_dataset(FashionMNISTConfig(substitute_pool=10_000))
    assert (len(dataset.train), len(dataset.substitute), len(dataset.test)) == (50_000, 10_000, 10_000)
    assert (dataset.num_classes, dataset.channels, dataset.image_size) == (10, 1, 28)
    assert dataset.test.labels_N.bincount().tolist() == [1000] * 10
    both = torch.cat([dataset.train.labels_N, dataset.substitute.labels_N])
    assert both.bincount().tolist() == [6000] * 10
    assert dataset.mean_C[0] == pytest.approx(0.2860, abs=0.003)  # as widely published for the 60,000
    assert dataset.std_C[0] == pytest.approx(0.3530, abs=0.003)
