"""bcn20000: 12,413 dermatoscopic images from Barcelona, eight diagnoses: those of ISIC 2019 (Combalia et al. 2019).

The training set of ISIC 2019 also holds HAM10000 and MSK; they are left out by their lesion_id, and so are images
without one. No test images: they are split off, lesion by lesion.
"""

from __future__ import annotations

from pathlib import Path

from rnet.data.datasets.config import BCN20000Config
from rnet.data.files.listing import ImageFiles, by_stem, images_of, listed_images, unlisted_note
from rnet.data.files.names import counted
from rnet.data.files.places import place_of
from rnet.data.files.tables import read_table
from rnet.data.files.tree import read_tree

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
"""In the order of the table's columns. UNK follows there, which no training image is."""

TRUTH, METADATA = "ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv"
_OURS = "BCN_"


def list_bcn20000(config: BCN20000Config) -> ImageFiles:
    """One pool, a class per diagnosis, grouped by lesion. The images may be in any folders."""
    folder = place_of(config, TRUTH)
    if not (folder / METADATA).is_file():
        raise FileNotFoundError(f"there is no {METADATA}, which says whose images are whose")
    lesions = {image: lesion for image, lesion in read_table(folder / METADATA, "image", "lesion_id")}
    diagnoses = _diagnoses(folder / TRUTH)
    ours = [image for image in diagnoses if lesions.get(image, "").startswith(_OURS)]
    if not ours:
        raise FileNotFoundError(f"{METADATA} has no lesion_id that begins with {_OURS}")
    known = {image: label for image in ours if (label := diagnoses[image]) is not None}
    index = by_stem(images_of(read_tree(folder, (".jpg",))))
    notes = list(unlisted_note(index, list(diagnoses), TRUTH))
    if others := len(diagnoses) - len(ours):
        notes.append(f"{counted(others, 'image')} of HAM10000 and MSK left out")
    if unknown := len(ours) - len(known):
        notes.append(f"{counted(unknown, 'image')} of an unknown diagnosis (UNK) left out")
    return ImageFiles(
        folder=folder,
        train=listed_images(index, list(known), TRUTH),
        train_labels=list(known.values()),
        train_groups=[lesions[image] for image in known],
        grouped_by="lesion",
        class_names=CLASSES,
        tables=(TRUTH, METADATA),
        notes=tuple(notes),
    )


def _diagnoses(path: Path) -> dict[str, int | None]:
    """The class of each image, None where its diagnosis is unknown (UNK). Raises FileNotFoundError for several."""
    found: dict[str, int | None] = {}
    for image, *cells in read_table(path, "image", *CLASSES):
        marked = [label for label, cell in enumerate(cells) if cell in ("1", "1.0")]
        if len(marked) > 1:
            raise FileNotFoundError(f"{path.name} gives {image} {len(marked)} diagnoses, not one")
        found[image] = marked[0] if marked else None
    return found
