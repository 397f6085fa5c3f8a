"""lfw: Labeled Faces in the Wild, 250x250 colour (Huang et al. 2007): whose face is it, of the 62 most pictured people.

torchvision no longer downloads it (its server is gone); scikit-learn does, from a mirror.
"""

from __future__ import annotations

from pathlib import Path

import torch

from rnet.data.config import LFWConfig
from rnet.data.download import open_or_download
from rnet.data.folder import file_sources, files_by_class
from rnet.data.images import RawImages

# People with fewer pictures are left out: 62 people and 3,023 pictures remain.
MIN_IMAGES = 20

# Below dataset.folder, in this order: scikit-learn's place, torchvision's, an unpacked archive, the folder itself.
_PLACES = ("lfw_home/lfw_funneled", "lfw-py/lfw_funneled", "lfw_funneled", "lfw-deepfunneled", "lfw", ".")


def load_lfw(config: LFWConfig) -> RawImages:
    """One pool of faces, a class per person in alphabetical order."""
    people = open_or_download(
        config, _find_people, f"a folder lfw_funneled with a folder per person, some with {MIN_IMAGES} pictures or more"
    )
    (faces,) = file_sources(config, [path for paths in people.values() for path in paths])
    return RawImages(
        train=faces,
        train_labels_N=torch.tensor([label for label, paths in enumerate(people.values()) for _ in paths]),
        num_classes=len(people),
        flip=True,
    )


def _find_people(folder: str, download: bool) -> dict[str, list[str]]:
    """{person: pictures} for the people with enough pictures. Raises FileNotFoundError if they are fewer than two."""
    if (people := _people_below(folder)) or not download:
        if not people:
            raise FileNotFoundError(f"no people with {MIN_IMAGES} pictures in it")
        return people
    from sklearn.datasets import fetch_lfw_people

    fetch_lfw_people(data_home=folder, min_faces_per_person=500)  # unpacks the files, which are then read from there
    return _find_people(folder, False)


def _people_below(folder: str) -> dict[str, list[str]]:
    for place in (Path(folder) / name for name in _PLACES):
        if place.is_dir():
            people = {
                name: paths for name, paths in files_by_class(place, (".jpg",)).items() if len(paths) >= MIN_IMAGES
            }
            if len(people) > 1:
                return people
    return {}
