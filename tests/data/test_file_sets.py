"""cifar10, gtsrb, celeba and lfw, from small imitations of their files in the layout they are published in."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rnet.data.config import DatasetConfig
from rnet.data.loading import load_dataset
from rnet.data.registry import DATASETS
from rnet.data.resize import decode_image
from rnet.errors import UserError


def config(name: str, folder: Path, **changes: Any) -> DatasetConfig:
    return DATASETS.config_class(name)(**{"folder": str(folder), "image_size": 8, "substitute_pool": 5, **changes})


@pytest.mark.parametrize("name", ["cifar10", "gtsrb", "celeba", "lfw"])
def test_a_set_that_is_not_there_names_the_place_and_the_remedies(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as error:
        load_dataset(config(name, tmp_path))
    assert str(error.value).startswith(f"dataset={name} was not found in {tmp_path}: ")
    assert "set dataset.folder to a folder that holds" in str(error.value)
    assert str(error.value).endswith(", or dataset.download=true")


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Five training files and a test file of four images each; returns the 24 images, test last."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        rows = images[4 * number : 4 * number + 4].reshape(4, -1)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [4 * number % 10, 1, 2, 3]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    return images


def test_cifar10_keeps_channels_rows_and_columns_in_place(tmp_path: Path, cifar10: np.ndarray) -> None:
    dataset = load_dataset(config("cifar10", tmp_path, image_size=0))
    assert (len(dataset.train), len(dataset.substitute), len(dataset.test)) == (15, 5, 4)
    assert (dataset.num_classes, dataset.channels, dataset.image_size, dataset.flip) == (10, 3, 32, True)
    train, test = dataset.train, dataset.test
    assert np.array_equal(train.fetch(torch.arange(15)).numpy(), cifar10[train.positions_N.numpy()])
    assert np.array_equal(test.fetch(torch.arange(4)).numpy(), cifar10[20:][test.positions_N.numpy()])
    assert test.labels_N.tolist() == [[0, 1, 2, 3][position] for position in test.positions_N.tolist()]


def write_gtsrb(folder: Path, write_image: Any) -> Path:
    base = folder / "gtsrb"
    for label in range(43):
        write_image(base / "GTSRB" / "Training" / f"{label:05d}" / "00000_00000.ppm", label)
        (base / "GTSRB" / "Training" / f"{label:05d}" / f"GT-{label:05d}.csv").write_text("not an image")
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number, label in enumerate([16, 1, 38]):
        write_image(base / "GTSRB" / "Final_Test" / "Images" / f"{number:05d}.ppm", 100 + number)
        rows.append(f"{number:05d}.ppm;53;54;6;5;48;49;{label}")
    (base / "GT-final_test.csv").write_text("\n".join(rows) + "\n")
    return base


def test_gtsrb_labels_come_from_folders_and_from_the_test_table(tmp_path: Path, write_image: Any) -> None:
    base = write_gtsrb(tmp_path, write_image)
    dataset = load_dataset(config("gtsrb", tmp_path))
    assert (len(dataset.train), len(dataset.substitute), len(dataset.test)) == (38, 5, 3)
    assert (dataset.num_classes, dataset.flip) == (43, False)
    assert torch.equal(dataset.train.labels_N, dataset.train.positions_N)
    assert dataset.test.labels_N.tolist() == [[16, 1, 38][position] for position in dataset.test.positions_N.tolist()]
    for part, name in (
        (dataset.train, "Training/{:05d}/00000_00000.ppm"),
        (dataset.test, "Final_Test/Images/{:05d}.ppm"),
    ):
        path = base / "GTSRB" / name.format(part.positions_N[0].item())
        assert torch.equal(part.fetch(torch.tensor([0]))[0], decode_image(str(path), 8, 3))


def test_an_incomplete_gtsrb_is_refused(tmp_path: Path, write_image: Any) -> None:
    base = write_gtsrb(tmp_path, write_image)
    (base / "GTSRB" / "Training" / "00007" / "00000_00000.ppm").unlink()
    with pytest.raises(UserError, match="images in 42 class folders, not in 43"):
        load_dataset(config("gtsrb", tmp_path))


@pytest.fixture
def celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_image: Any) -> Path:
    """Thirteen faces: 8 to train, 2 to validate, 3 to test; every third is Young, from the eighth on they smile."""
    monkeypatch.setattr("torchvision.datasets.celeba.check_integrity", lambda path, md5=None: Path(path).is_file())
    base = tmp_path / "celeba"
    names = [f"{i + 1:06d}.jpg" for i in range(13)]
    for i, name in enumerate(names):
        write_image(base / "img_align_celeba" / name, i)
    split = [0] * 8 + [1] * 2 + [2] * 3
    tables = {
        "list_eval_partition.txt": [f"{name} {split[i]}" for i, name in enumerate(names)],
        "identity_CelebA.txt": [f"{name} {i}" for i, name in enumerate(names)],
        "list_bbox_celeba.txt": ["13", "image_id x_1 y_1 width height", *(f"{name} 1 2 3 4" for name in names)],
        "list_landmarks_align_celeba.txt": ["13", "x y", *(f"{name} 1 2" for name in names)],
        "list_attr_celeba.txt": [
            "13",
            "Smiling Young ",
            *(f"{name} {1 if i >= 7 else -1:2d} {1 if i % 3 == 0 else -1:2d}" for i, name in enumerate(names)),
        ],
    }
    for name, lines in tables.items():
        (base / name).write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("attribute", "has_it"),
    [(None, lambda i: i >= 7), ("Smiling", lambda i: i >= 7), ("Young", lambda i: i % 3 == 0)],
)
def test_celeba_labels_are_the_attribute(celeba: Path, attribute: str | None, has_it: Any) -> None:
    dataset = load_dataset(config("celeba", celeba, attribute=attribute))
    assert (len(dataset.train), len(dataset.substitute), len(dataset.test)) == (5, 5, 3)
    assert dataset.num_classes == 2
    for part, first in ((dataset.train, 0), (dataset.substitute, 0), (dataset.test, 10)):
        for i, position in enumerate(part.positions_N.tolist()):
            face = first + position
            assert part.labels_N[i].item() == int(has_it(face))
            path = celeba / "celeba" / "img_align_celeba" / f"{face + 1:06d}.jpg"
            assert torch.equal(part.fetch(torch.tensor([i]))[0], decode_image(str(path), 8, 3))


def test_an_unknown_attribute_is_refused_with_the_nearest(celeba: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.attribute='Smile' does not exist; did you mean Smiling"):
        load_dataset(config("celeba", celeba, attribute="Smile"))


@pytest.mark.parametrize("place", ["lfw_home/lfw_funneled", "lfw-deepfunneled", "."])
def test_lfw_keeps_the_people_with_enough_pictures(tmp_path: Path, write_image: Any, place: str) -> None:
    counts = {"Ann_Able": 20, "Bob_Brief": 19, "Cid_Clear": 21}
    for person, count in counts.items():
        for i in range(count):
            write_image(tmp_path / place / person / f"{person}_{i + 1:04d}.jpg", i)
    dataset = load_dataset(config("lfw", tmp_path))
    assert dataset.num_classes == 2
    assert (len(dataset.train), len(dataset.substitute), len(dataset.test)) == (27, 5, 9)
    for part in (dataset.train, dataset.substitute, dataset.test):
        assert torch.equal(part.labels_N, (part.positions_N >= 20).long())


def test_files_without_a_size_are_refused(tmp_path: Path, write_image: Any) -> None:
    write_gtsrb(tmp_path, write_image)
    with pytest.raises(UserError, match=r"image_size=0: the images of dataset=gtsrb differ .*image_size=32"):
        load_dataset(config("gtsrb", tmp_path, image_size=0))


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("cifar10", "torchvision.datasets.CIFAR10"),
        ("gtsrb", "torchvision.datasets.GTSRB"),
        ("celeba", "torchvision.datasets.CelebA"),
        ("lfw", "sklearn.datasets.fetch_lfw_people"),
    ],
)
def test_download_is_asked_for_and_its_failure_is_a_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, opened: str
) -> None:
    asked: list[str] = []

    def fail(*args: Any, **kwargs: Any) -> None:
        asked.append(str(kwargs.get("data_home", args[0] if args else "")))
        assert kwargs.get("download", True)
        raise RuntimeError("quota exceeded\nfor today")

    monkeypatch.setattr(opened, fail)
    with pytest.raises(UserError, match=r"could not be downloaded to .*: quota exceeded; put .* there yourself"):
        load_dataset(config(name, tmp_path / "new", download=True))
    assert asked == [str(tmp_path / "new")]
