"""ham10000: 10,015 dermatoscopic images of 7,470 skin lesions, seven diagnoses, 600x450 (Tschandl et al. 2018).

No test images: they are split off, lesion by lesion. Some lesions have several images, at other magnifications or
angles, so that a split by images would test on what was trained on.
"""

from __future__ import annotations

from rnet.data.datasets.config import HAM10000Config
from rnet.data.files.listing import ImageFiles, by_stem, images_of, listed_images, unlisted_note
from rnet.data.files.names import some
from rnet.data.files.places import place_of
from rnet.data.files.tables import read_table
from rnet.data.files.tree import read_tree

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")

_TABLES = ("HAM10000_metadata", "HAM10000_metadata.csv", "HAM10000_metadata.tab")
"""As it is called in Dataverse's archive, by Kaggle and by Dataverse's converter, with tabs."""


def list_ham10000(config: HAM10000Config) -> ImageFiles:
    """One pool, a class per diagnosis (dx), grouped by lesion. The images may be in any folders."""
    folder = place_of(config, *_TABLES)
    table = next(name for name in _TABLES if (folder / name).is_file())
    rows = read_table(folder / table, "image_id", "dx", "lesion_id")
    if unknown := sorted({dx for _, dx, _ in rows} - set(CLASSES)):
        raise FileNotFoundError(f"{table} has the diagnoses {some(unknown)}, which are none of {', '.join(CLASSES)}")
    index = by_stem(images_of(read_tree(folder, (".jpg",))))
    wanted = [image for image, _, _ in rows]
    return ImageFiles(
        folder=folder,
        train=listed_images(index, wanted, table),
        train_labels=[CLASSES.index(dx) for _, dx, _ in rows],
        train_groups=[lesion for _, _, lesion in rows],
        grouped_by="lesion",
        class_names=CLASSES,
        tables=(table,),
        notes=unlisted_note(index, wanted, table),
    )
