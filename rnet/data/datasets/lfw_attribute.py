"""lfw with dataset.attribute: 13,143 of its 13,233 faces, by the sign of one of 73 attributes (Kumar et al. 2009).

A line of lfw_attributes.txt: a person, the number of the picture, and what 73 classifiers said of it: above 0 is yes.
"""

from __future__ import annotations

from pathlib import Path

from rnet.data.config import LFWConfig
from rnet.data.files.listing import ImageFiles, by_stem, images_of, listed_images, unlisted_note
from rnet.data.files.places import place_of
from rnet.data.files.published import LFW_PLACES
from rnet.data.files.tables import read_rows
from rnet.data.files.tree import read_tree
from rnet.errors import UserError, unknown_name

TABLE = "lfw_attributes.txt"


def list_lfw_attribute(config: LFWConfig) -> ImageFiles:
    """One pool of all faces with attributes, two classes, grouped by person. Raises UserError for other attributes."""
    folder = place_of(config, TABLE)
    people, values = _values(folder / TABLE, str(config.attribute))
    wanted = [f"{person}_{number:04d}" for person, number in people]
    place = next((name for name in LFW_PLACES if any((folder / name).glob("*/*_0001.jpg"))), None)
    if place is None:
        raise FileNotFoundError("there is no folder of people, like lfw_funneled/Aaron_Eckhart/Aaron_Eckhart_0001.jpg")
    index = by_stem([str(Path(place) / name) for name in images_of(read_tree(folder / place, (".jpg",)))])
    return ImageFiles(
        folder=folder,
        train=listed_images(index, wanted, TABLE),
        train_labels=[int(value > 0) for value in values],
        train_groups=[person for person, _ in people],
        grouped_by="person",
        class_names=(f"not {config.attribute}", str(config.attribute)),
        tables=(TABLE,),
        notes=unlisted_note(index, wanted, TABLE),
    )


def _values(path: Path, attribute: str) -> tuple[list[tuple[str, int]], list[float]]:
    """(person, picture) and the attribute of each line. The names of columns follow a "#" and a tab."""
    rows = read_rows(path, delimiter="\t")
    at = next((number for number, row in enumerate(rows) if "person" in row and "imagenum" in row), None)
    if at is None:
        raise FileNotFoundError(f"{path.name} has no line that names the columns person and imagenum")
    columns = [cell for cell in rows[at] if cell != "#"]
    columns = [cell.removeprefix("#").strip() for cell in columns]
    if attribute not in columns[2:]:
        raise unknown_name("dataset.attribute", attribute, columns[2:])
    column = columns.index(attribute)
    try:
        body = [row for row in rows[at + 1 :] if not row[0].startswith("#")]
        return [(row[0].replace(" ", "_"), int(row[1])) for row in body], [float(row[column]) for row in body]
    except (ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged ({error}); download it again") from None
