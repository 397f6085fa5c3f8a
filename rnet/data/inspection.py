"""What was found in a data set's image files, judged as a whole: before anything is trained, and once for a store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import PIL

from rnet.data.config import DatasetConfig
from rnet.data.decoding import Facts
from rnet.data.files.digest import current_root, in_scope, keeps_records, look_at
from rnet.data.files.names import counted, shown, some
from rnet.data.files.records import write_kept
from rnet.data.saying import say
from rnet.errors import UserError
from rnet.storage.json_files import read_information

_DARK = 0.25
"""Below this share of white, two of a file's bits were never used: it holds 10, 12 or 14 bits in 16."""

_METHOD = 1
"""Raised when what is looked for changes: then all files are looked at again."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of all files in their order. pixels: a digest of each image.

    framed, vanished: positions of files with several frames, and of those that are of one colour on their background.
    peak: the highest value in files of more than 8 bits, as a share of white; brightest: where; deep: of how many.
    damaged: positions of files that cannot be read, whose pixels are their paths.
    """

    pixels: list[str]
    framed: list[int]
    vanished: list[int]
    peak: float | None
    brightest: int
    deep: int
    damaged: list[int] = field(default_factory=list)


def raise_unreadable(errors: Sequence[UserError], total: int) -> None:
    """Raises UserError if there are errors: the one, or how many and the first three."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        more = f"; and {len(errors) - 3:,} more" if len(errors) > 3 else ""
        raise UserError(
            f"{len(errors):,} of {total:,} image files cannot be read: {'; '.join(map(str, errors[:3]))}{more}; "
            f"dataset.damaged=skip leaves them out"
        )


def check_found(config: DatasetConfig, found: Found, paths: Sequence[str]) -> None:
    """Says what is left out of the images. Raises UserError if nothing is seen of them: too dark, or transparent."""
    if found.peak is not None and 0 < found.peak < _DARK and config.white_level is None:
        raise UserError(
            f"none of the {found.deep:,} images of more than 8 bits is brighter than {100 * found.peak:.2g} % of what "
            f"their format can hold ({shown(paths[found.brightest])} is the brightest), so fewer bits are in use; set "
            f"dataset.white_level to their white, e.g. 4095 for 12 bits; if they are so dark, to 65535 (floats: 1.0)"
        )
    if found.vanished:
        other = "white" if config.background == "black" else "black"
        unseen = (
            f"{len(found.vanished):,} of {len(found.pixels):,} images are of one colour on dataset.background="
            f"{config.background}, although their transparency has a shape: {some(paths[i] for i in found.vanished)}"
        )
        if 2 * len(found.vanished) > len(found.pixels):
            raise UserError(f"{unseen}; set dataset.background={other}")
        say(f"{unseen}; dataset.background={other} may show them")
    if found.damaged:
        say(f"{counted(len(found.damaged), 'image file')} of {len(paths):,} cannot be read and are in no part: "
            f"{some(paths[i] for i in found.damaged)}")  # fmt: skip
    if found.framed:
        names = some(paths[i] for i in found.framed)
        say(f"of {counted(len(found.framed), 'image file')} with several frames or pages the first is read: {names}")


def keep_found(config: DatasetConfig, facts: Sequence[Facts | UserError], paths: Sequence[str]) -> Found:
    """What was found in all files, kept in the store if there is one. Raises UserError if some cannot be read.

    With dataset.damaged=skip they may be some, but not all.
    """
    errors = [fact for fact in facts if isinstance(fact, UserError)]
    if config.damaged == "refuse" or len(errors) == len(facts):
        raise_unreadable(errors, len(paths))
    good = [(fact, position) for position, fact in enumerate(facts) if not isinstance(fact, UserError)]
    peaks = [(fact.peak, position) for fact, position in good if fact.peak is not None]
    peak, brightest = max(peaks, default=(None, 0))
    found = Found(
        pixels=[path if isinstance(fact, UserError) else fact.pixels for fact, path in zip(facts, paths, strict=True)],
        framed=[position for fact, position in good if fact.frames > 1],
        vanished=[position for fact, position in good if fact.vanished],
        peak=peak, brightest=brightest, deep=len(peaks),
        damaged=[position for position, fact in enumerate(facts) if isinstance(fact, UserError)],
    )  # fmt: skip
    if (name := _name(config)) is not None:
        _waiting[name] = found
        write_found()
    return found


def write_found() -> None:
    """Writes what was found into the store in use, once it exists."""
    if keeps_records():
        for name, found in _waiting.items():
            write_kept(Path(current_root() or "") / "seen" / name, asdict(found))
        _waiting.clear()


def kept_found(config: DatasetConfig) -> Found | None:
    """What the store remembers of these very files, read in the same way; None if it does not."""
    root, name = current_root(), _name(config)
    record = {} if root is None or name is None else read_information(root / "seen" / name, sealed=True)
    return Found(**record) if record else None


_waiting: dict[str, Found] = {}
"""What is to be written, by the name of its file."""


def _name(config: DatasetConfig) -> str | None:
    """The file that remembers these files, read in this way; None outside of looked_at_once, and for sets without."""
    if not in_scope() or (look := look_at(config)) is None:
        return None
    order = [str(getattr(config, key)) for key in config.files_by if getattr(config, key) is not None]
    name = repr(config) if ":" in config.name else " ".join([config.name, *order])
    how = (name, _METHOD, PIL.__version__, look.digest, look.sha256,
           config.grayscale, config.background, config.white_level)  # fmt: skip
    return f"{hashlib.sha256(repr(how).encode()).hexdigest()[:16]}-images.json"
