"""Folders of Hugging Face's library `datasets`: what save_to_disk writes, and Parquet files as the Hub keeps them.

Tables are Arrow files that hold images as they were encoded. A row's image is read at its place in the file, as a
sample of a tar shard is: in any order, by any number of processes, and nothing is kept in memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rnet.data.config import DatasetConfig
from rnet.data.datasets.config import HuggingFaceConfig
from rnet.data.files.image_folder import TEST, TRAIN
from rnet.data.files.names import counted, is_system, shown, some
from rnet.data.files.shards import Member
from rnet.data.saying import say
from rnet.errors import UserError, first_line

_SAVED = ("dataset_dict.json", "state.json")
"""One of them is in every folder that save_to_disk wrote."""


def files_of(config: DatasetConfig) -> tuple[Path, tuple[str, ...]]:
    """The folder, and the names below it of all files that are read. Raises UserError if there are none."""
    if config.folder is None:
        raise UserError(
            "dataset=huggingface needs dataset.folder, what save_to_disk wrote or a folder of .parquet files"
        )
    folder = Path(config.folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"dataset.folder={config.folder!r} is not a folder; give one that save_to_disk wrote")
    suffixes = (".arrow", ".json") if is_saved(folder) else (".parquet",)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in suffixes)
    names = [name for name in found if not any(is_system(part) for part in name.split("/"))]
    names = [name for name in names if not os.path.basename(name).startswith("cache-")]  # of map and filter
    if not names:
        raise UserError(
            f"{shown(folder)} holds no table of images: neither what datasets' save_to_disk writes nor .parquet files"
        )
    return folder, tuple(names)


def is_saved(folder: Path) -> bool:
    """Whether save_to_disk wrote it."""
    return any((folder / name).is_file() for name in _SAVED)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One split: the images and the numbers of their classes, in the order of its rows, and the classes' names."""

    split: str
    images: list[Member]
    labels: list[int]
    class_names: tuple[str, ...]


def read_tables(config: HuggingFaceConfig) -> tuple[Table, Table | None]:
    """The training and the test images. Raises UserError for what is missing, damaged or unlabelled."""
    folder, names = files_of(config)
    splits = _splits(folder, names)
    train = next((name for name in TRAIN if name in splits), None)
    if train is None:
        raise UserError(f"{shown(folder)} has the splits {some(sorted(splits))}, but none is called train; rename one")
    tests = [name for name in TEST if name in splits]
    first = _table(config, train, splits[train], _labels(config, splits[train]))
    labelled = ((name, _labels(config, splits[name])) for name in tests)
    second = next(
        (_table(config, name, splits[name], labels) for name, labels in labelled if any(one >= 0 for one in labels)),
        None,
    )
    if second is not None and second.class_names != first.class_names:
        raise UserError(f"{shown(folder)} has other classes in {second.split} than in {train}; make them the same")
    return first, second


def _splits(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """By name, the library's tables; one without a name is train."""
    try:
        import datasets
    except ImportError:
        raise UserError("dataset=huggingface needs the package datasets; pip install 'rnet[huggingface]'") from None
    datasets.disable_progress_bars()
    try:
        if is_saved(folder):
            found = datasets.load_from_disk(str(folder), keep_in_memory=False)
        else:
            found = datasets.load_dataset("parquet", data_dir=str(folder), keep_in_memory=False)
    except Exception as error:  # of its own, of Arrow's and of the system's
        raise UserError(
            f"{shown(folder)} cannot be read as a data set of Hugging Face ({first_line(error)}); replace what is "
            f"damaged: {some(names)}"
        ) from error
    splits = dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}
    if not is_saved(folder):
        from pyarrow import parquet

        rows = sum(int(parquet.read_metadata(folder / name).num_rows) for name in names)
        if left_out := rows - sum(len(table) for table in splits.values()):
            say(
                f"{counted(left_out, 'row')} of {rows:,} in {shown(folder)} are in no split: where a file has train, "
                f"test or validation as a word in its name, the library passes over those that have none"
            )
    return splits


def _column(config: HuggingFaceConfig, table: Any, kind: str, asked: str | None, key: str, usual: str) -> str:
    """The column of that kind of feature: the one that is asked for, the usual one, or the only one."""
    fitting = [name for name, feature in table.features.items() if type(feature).__name__ == kind]
    if asked is not None and asked in fitting:
        return asked
    if asked is None and (len(fitting) == 1 or usual in fitting):
        return usual if usual in fitting else fitting[0]
    raise UserError(
        f"{shown(config.folder or '')} has the columns {some(sorted(table.features), 8)}, of which "
        f"{counted(len(fitting), 'column')} of the feature {kind}"
        f"{': ' + some(fitting, 8) if fitting else ''}; set dataset.{key} to one of that feature"
    )


def _label_column(config: HuggingFaceConfig, table: Any) -> str:
    return _column(config, table, "ClassLabel", config.label_column, "label_column", "label")


def _labels(config: HuggingFaceConfig, table: Any) -> list[int]:
    found = table.data.column(_label_column(config, table)).to_pylist()
    return [-1 if label is None else int(label) for label in found]


def _table(config: HuggingFaceConfig, split: str, table: Any, labels: list[int]) -> Table:
    class_names = tuple(table.features[_label_column(config, table)].names)
    column = _column(config, table, "Image", config.image_column, "image_column", "image")
    if wrong := [row for row, label in enumerate(labels) if not 0 <= label < len(class_names)]:
        raise UserError(
            f"{shown(config.folder or '')} has {counted(len(wrong), 'row')} of {split} without a class, e.g. row "
            f"{wrong[0]:,}; remove them with filter"
        )
    images = [image for file in table.cache_files for image in _images(file["filename"], column)]
    if len(images) != len(labels) or table._indices is not None:
        raise UserError(
            f"{shown(config.folder or '')} holds {len(images):,} images of {split} where its tables have "
            f"{len(labels):,} rows; write it anew with save_to_disk"
        )
    return Table(split=split, images=images, labels=labels, class_names=class_names)


def _images(path: str, column: str) -> list[Member]:
    """Where in an Arrow file the encoded images are."""
    import pyarrow

    found: list[Member] = []
    try:
        with pyarrow.memory_map(path) as file:
            whole = file.read_buffer()  # of the mapping: nothing is read yet
            for batch in pyarrow.ipc.open_stream(whole):
                if not len(batch):
                    continue
                images = batch.column(column)
                encoded = images.field("bytes")
                if missing := images.null_count or encoded.null_count:
                    raise UserError(
                        f"{shown(path)} lacks {counted(missing, 'image')}, or names files and does not hold them; "
                        f"remove the rows, or write it anew with save_to_disk, which puts the files in"
                    )
                _, _, content = encoded.buffers()
                start = content.address - whole.address
                if not 0 <= start <= whole.size - content.size:
                    raise UserError(f"{shown(path)} is compressed; write it anew with save_to_disk")
                for first, end in pairwise(_offsets(encoded)):
                    found.append(Member.of(path, f"row {len(found)}", start + first, end - first))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{shown(path)} cannot be read ({first_line(error)}); replace it") from None
    return found


def _offsets(encoded: Any) -> list[int]:
    """Where each value of an array of bytes begins in its buffer, and where the last one ends."""
    kind = np.int64 if str(encoded.type).startswith("large") else np.int32
    offsets = np.frombuffer(encoded.buffers()[1], dtype=kind)
    found: list[int] = offsets[encoded.offset : encoded.offset + len(encoded) + 1].tolist()
    return found
