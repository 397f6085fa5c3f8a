"""webdataset: one's own images, or a published set, in tar shards of samples key.jpg and key.cls.

Shards are the .tar files of a folder and of its folders; those with val, valid, validation or test as a word in their
path are test images, all others train. classes.txt, a name a line, names the classes.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from rnet.data.datasets.config import WebDatasetConfig
from rnet.data.files.names import counted, shown, some
from rnet.data.files.shards import CLASSES, Member, Shard, read_shards, shards_of
from rnet.data.files.suffixes import image_suffixes
from rnet.data.folder import file_sources
from rnet.data.images import RawImages
from rnet.data.saying import say
from rnet.errors import UserError

_MOST_CLASSES = 1_000_000
_STRAYS = (
    "what comes before the first dot of a name is its sample, what comes behind it is a suffix; links are not read"
)
_TEST = re.compile(r"(?<![a-z])(val|valid|validation|test)(?![a-z])")


def load_webdataset(config: WebDatasetConfig) -> RawImages:
    """All samples of the shards. Raises UserError for shards that are damaged or lack labels."""
    folder, names = shards_of(config)
    shards = [name for name in names if name != CLASSES]
    parts = [[name for name in shards if bool(_TEST.search(name.lower())) == tested] for tested in (False, True)]
    if not parts[0]:
        raise UserError(
            f"the shards of {shown(folder)} are all named as test images: {some(parts[1])}; add shards to train"
        )
    found = [read_shards([str(folder / name) for name in part], image_suffixes()) for part in parts]
    _judge(config, folder, [shard for shards in found for shard in shards])
    images = [[image for shard in shards for image in shard.images] for shards in found]
    labels = [[label for shard in shards for label in shard.labels] for shards in found]
    if not labels[0]:
        raise UserError(f"the shards of {shown(folder)} hold no training image with a label: {some(parts[0])}")
    class_names = _class_names(folder) if CLASSES in names else ()
    num_classes = len(class_names) or _number_of_classes(labels[0], images[0])
    for part, own in zip(images, labels, strict=True):
        if own and (most := max(own)) >= num_classes:
            where = part[own.index(most)]
            raise UserError(f"{shown(where)} has the label {most}, but the classes are 0 to {num_classes - 1}")
    sources = file_sources(config, *(part for part in images if part))
    return RawImages(
        train=sources[0],
        train_labels_N=torch.tensor(labels[0]),
        test=sources[1] if images[1] else None,
        test_labels_N=torch.tensor(labels[1]) if images[1] else None,
        num_classes=num_classes,
        class_names=class_names,
        flip=True,
    )


def _judge(config: WebDatasetConfig, folder: Path, shards: list[Shard]) -> None:
    cut = [shard.cut for shard in shards if shard.cut]
    if cut and config.damaged != "skip":
        raise UserError(
            f"{counted(len(cut), 'shard')} of {len(shards)} damaged: {'; '.join(cut[:3])}; replace what is damaged, or "
            f"set dataset.damaged=skip to go on with the samples before that"
        )
    for shard in shards:
        if shard.cut:
            say(f"{shard.cut}; of its samples {len(shard.images):,} are read")
    strays = [name for shard in shards for name in shard.strays]
    if strays and not any(shard.images for shard in shards):
        raise UserError(f"no image of the shards of {shown(folder)} is read, e.g. {shown(strays[0])}: {_STRAYS}")
    if strays:
        say(f"{counted(len(strays), 'image file')} of the shards left out: {some(strays)}: {_STRAYS}")
    if bare := [name for shard in shards for name in shard.bare]:
        say(f"{counted(len(bare), 'label')} of the shards without an image: {some(bare)}")


def _number_of_classes(labels: list[int], images: list[Member]) -> int:
    """One more than the largest label, where nothing names the classes."""
    number = max(labels) + 1
    if number > _MOST_CLASSES:
        where = images[labels.index(number - 1)]
        raise UserError(f"{shown(where)} has the label {number - 1}; labels number the classes from 0 on, without gaps")
    if absent := sorted(set(range(number)) - set(labels)):
        say(
            f"no training image has the label {some(map(str, absent))}, although labels go from 0 to {number - 1}: the "
            f"classes are taken for {number:,}; {CLASSES} beside the shards would name them"
        )
    return number


def _class_names(folder: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in (folder / CLASSES).read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{shown(folder / CLASSES)} cannot be read ({error}); write a class name a line") from None
    while names and not names[-1]:
        names = names[:-1]
    if not names or not all(names) or len(set(names)) < len(names):
        raise UserError(f"{shown(folder / CLASSES)} must hold a name a line, each once and none empty")
    return names
