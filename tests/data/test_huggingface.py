"""Folders of the library datasets: the images, labels and names of classes that were put in, read at their places."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rnet.data.datasets.config import HuggingFaceConfig
from rnet.data.files.digest import look_at
from rnet.data.files.shards import Member
from rnet.data.loading import load_dataset
from rnet.data.resize import decode_image
from rnet.errors import UserError
from tests.data.test_shards import photograph

datasets = pytest.importorskip("datasets")


def table(count: int, first: int = 0, *, labels: list[int] | None = None) -> Any:
    """Photographs of these numbers, of three classes in turn."""
    numbers = range(first, first + count)
    features = {
        "image": datasets.Image(), "number": datasets.Value("int64"),
        "label": datasets.ClassLabel(names=["heron", "owl", "wren"]),
    }  # fmt: skip
    rows = {
        "image": [{"bytes": photograph(i, ".jpg"), "path": None} for i in numbers], "number": list(numbers),
        "label": [i % 3 for i in numbers] if labels is None else labels,
    }  # fmt: skip
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def config(place: Path, **changes: Any) -> HuggingFaceConfig:
    values: dict[str, Any] = {"folder": str(place), "image_size": 16, "substitute_pool": 2, "max_memory_mb": 0}
    return HuggingFaceConfig(**{**values, **changes})


def write(folder: Path, kind: str, splits: dict[str, Any]) -> None:
    if kind == "saved":
        datasets.DatasetDict(splits).save_to_disk(folder, num_shards={name: 2 for name in splits})
    else:
        folder.mkdir(exist_ok=True)
        for name, one in splits.items():
            one.to_parquet(folder / f"{name}-00000-of-00001.parquet")


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_a_folder_holds_the_images_labels_and_classes_that_were_put_in(kind: str, tmp_path: Path) -> None:
    hidden = table(3, 30, labels=[-1, -1, -1])  # as the Hub keeps the test images of competitions
    write(tmp_path / "set", kind, {"train": table(11), "validation": table(4, 20), "test": hidden})
    found = load_dataset(config(tmp_path / "set"))
    assert found.class_names == ("heron", "owl", "wren")
    assert (len(found.train), len(found.substitute), len(found.test)) == (9, 2, 4)
    seen = []
    for part, first in ((found.train, 0), (found.substitute, 0), (found.test, 20)):
        images_NCHW = part.fetch(torch.arange(len(part)))
        for place, image_CHW, label in zip(part.positions_N.tolist(), images_NCHW, part.labels_N.tolist(), strict=True):
            (file := tmp_path / "one.jpg").write_bytes(photograph(first + place, ".jpg"))
            assert torch.equal(image_CHW, decode_image(str(file), 16, 3))
            assert label == (first + place) % 3
            seen.append(first + place)
    assert sorted(seen) == [*range(11), *range(20, 24)]


def test_the_id_follows_the_tables_and_not_what_the_library_keeps_beside_them(tmp_path: Path) -> None:
    table(6).save_to_disk(tmp_path / "set")
    first = look_at(config(tmp_path / "set"))
    assert first is not None
    assert sorted(first.files) == ["data-00000-of-00001.arrow", "dataset_info.json", "state.json"]
    (tmp_path / "set" / "cache-0123.arrow").touch()
    again = look_at(config(tmp_path / "set"))
    table(7).save_to_disk(tmp_path / "other")
    other = look_at(config(tmp_path / "other"))
    assert again is not None
    assert other is not None
    assert again.sha256 == first.sha256 != other.sha256


def damage_arrow(folder: Path) -> None:
    file = next(folder.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:4000])


def damage_image(folder: Path) -> None:
    file = next(folder.glob("*.arrow"))
    file.write_bytes(file.read_bytes().replace(photograph(2, ".jpg"), photograph(2, ".jpg")[:200].ljust(
        len(photograph(2, ".jpg")), b"\0")))  # fmt: skip


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (lambda folder: damage_arrow(folder), {}, r"cannot be read as a data set of Hugging Face .*replace"),
        (lambda folder: damage_image(folder), {}, r"arrow/row 2 cannot be read as an image"),
        (lambda folder: None, {"label_column": "number"}, r"columns image, label, number, .*set dataset.label_column"),
        (lambda folder: None, {"image_column": "photo"}, r"1 column of the feature Image: image; set dataset.image_"),
        (lambda folder: None, {"folder": "/nowhere"}, "is not a folder"),
        (lambda folder: None, {"folder": None}, "needs dataset.folder"),
        (lambda folder: [file.unlink() for file in folder.iterdir()], {}, "holds no table of images"),
    ],
)
def test_what_cannot_be_trained_on_is_named(make: Any, changes: Any, message: str, tmp_path: Path) -> None:
    table(6).save_to_disk(tmp_path / "set")
    make(tmp_path / "set")
    with pytest.raises(UserError, match=message):
        load_dataset(config(tmp_path / "set", **changes))


def test_rows_without_a_class_are_named(tmp_path: Path) -> None:
    table(4, labels=[0, 1, -1, 2]).save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match=r"1 row of train without a class, e\.g\. row 2"):
        load_dataset(config(tmp_path / "set"))


def test_without_the_library_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(4).save_to_disk(tmp_path / "set")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'rnet\[huggingface\]'"):
        load_dataset(config(tmp_path / "set"))


def test_images_are_read_at_their_places_in_the_tables(tmp_path: Path) -> None:
    table(6).save_to_disk(tmp_path / "set")
    path = load_dataset(config(tmp_path / "set")).train.source.paths[4]  # type: ignore[attr-defined]
    assert isinstance(path, Member)
    assert path.read() == photograph(4, ".jpg")


def test_rows_that_the_library_passes_over_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "tables"
    write(folder, "parquet", {"train": table(12)})
    load_dataset(config(folder))
    assert "no split" not in caplog.text
    write(folder, "parquet", {"more": table(5, 12)})
    load_dataset(config(folder))
    assert f"5 rows of 17 in {folder} are in no split" in caplog.text
