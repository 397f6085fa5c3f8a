"""lfw: Labeled Faces in the Wild, 250x250 colour (Huang et al. 2007): whose face is it, of the 62 most pictured people.

With dataset.attribute another question is asked of all people (lfw_attribute.py).

torchvision no longer downloads it (its server is gone); scikit-learn does, from a mirror.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from rnet.data.config import LFWConfig
from rnet.data.download import open_or_download
from rnet.data.files.classes import class_indices, labels_by_name
from rnet.data.files.published import HOLDS, list_lfw
from rnet.data.files.tree import Tree
from rnet.data.folder import file_sources
from rnet.data.images import RawImages
from rnet.data.listed import load_listed


def load_lfw(config: LFWConfig) -> RawImages:
    """One pool of faces, a class per person, in alphabetical order unless the configuration says otherwise."""
    if config.attribute is not None:
        return load_listed(config)
    people = open_or_download(config, _find_people, HOLDS["lfw"])
    index_of, class_names = class_indices(list(people.by_class), config, str(people.folder))
    (faces,) = file_sources(config, [str(people.folder / name) for names in people.by_class.values() for name in names])
    return RawImages(
        train=faces,
        train_labels_N=torch.tensor(labels_by_name(people.by_class, index_of)),
        num_classes=len(class_names),
        class_names=class_names,
        flip=True,
    )


def _find_people(folder: str, download: bool) -> Tree:
    """The people with enough pictures. Raises FileNotFoundError if they are fewer than two."""
    if download:
        with suppress(FileNotFoundError):
            return list_lfw(Path(folder))
        from sklearn.datasets import fetch_lfw_people

        fetch_lfw_people(data_home=folder, min_faces_per_person=500)  # unpacks the files, which are read from there
    return list_lfw(Path(folder))
