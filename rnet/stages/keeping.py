"""A whole store: checked, cleared of what was left behind, and carried elsewhere.

A store is <root>/<stage>/<id>/. Nothing here computes a stage; what is set aside is computed again by recompute.py, or
by the next command that needs it.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rnet.config.documents import content_id, read_document
from rnet.errors import UserError, first_line
from rnet.stages.graph import STAGE_NAMES
from rnet.stages.results import says_enough
from rnet.stages.sizes import stage_folders, taken
from rnet.stages.store import RESULT
from rnet.storage.files import locked_if_free, make_folder, replace_file, unwritable
from rnet.storage.manifest import MANIFEST, SIGNATURE, label_of, problems_of, read_manifest, write_manifest
from rnet.storage.signatures import read_private_key, read_public_key, sign, signature_problem

logger = logging.getLogger(__name__)

ASIDE = "quarantine"
"""Where damaged folders are put, below the root."""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A finished stage that is not as it was written: its label, all that is wrong, and where it is now."""

    label: str
    problems: list[str]
    aside: str | None = None


def finished(root: Path) -> Iterator[Path]:
    """The folders of all finished stages, by stage and id."""
    for folder in stage_folders(root):
        if (folder / RESULT).exists():
            yield folder


def problems(folder: Path) -> list[str]:
    """All that is wrong with a finished stage: its files, its name, which its configuration decides, its result."""
    found = problems_of(folder)
    return found or _other_name(folder) or _other_result(folder)


def _other_name(folder: Path) -> list[str]:
    try:
        document = read_document(folder / "config.yaml")
        named = f"{document['stage']}/{content_id(document)}"
    except UserError as error:
        return [str(error)]
    except (KeyError, TypeError, ValueError) as error:
        return [f"{folder / 'config.yaml'} is not the document of a stage: {first_line(error)}"]
    return [] if named == label_of(folder) else [f"{folder} holds the configuration of {named}"]


def _other_result(folder: Path) -> list[str]:
    path = folder / RESULT
    return [] if says_enough(path) else [f"{path} lacks what a result of {folder.parent.name} says"]


def verify_store(root: Path, *, fix: bool = False, seal: bool = False) -> tuple[int, list[Damage]]:
    """How many finished stages there are, and those that are damaged.

    seal: stages without a manifest, as older versions of rnet left them, are given one, unless their name is wrong;
    what they hold is believed. fix: damaged folders are moved to ROOT/quarantine.
    """
    count, sealed, damaged = 0, 0, []
    for folder in finished(root):
        count += 1
        if seal and not (folder / MANIFEST).exists() and not _other_name(folder):
            write_manifest(folder, {})
            sealed += 1
        if wrong := problems(folder):
            label, aside = label_of(folder), set_aside(root, folder) if fix else None
            damaged.append(Damage(label=label, problems=wrong, aside=aside))
    if sealed:
        logger.warning("%d stages were sealed as they are; whether they had been altered cannot be known", sealed)
    return count, damaged


def set_aside(root: Path, folder: Path) -> str:
    """Moves a stage's folder to ROOT/quarantine, under a name that is free there; returns its new path."""
    place = root / ASIDE / folder.parent.name
    make_folder(place)
    number = 1
    while (target := place / f"{folder.name}.{number}").exists():
        number += 1
    folder.rename(target)
    return str(target)


def clear(root: Path, *, unfinished: bool, dry: bool) -> tuple[list[str], int]:
    """Removes what nobody needs; the names of what was removed, below the root, and its bytes.

    Always: unfinished and damaged files beside good ones, checkpoints of what is complete, and what is in quarantine.
    unfinished: also stages that are not complete and that no process computes. dry: removes nothing.
    """
    gone: list[Path] = [path for path in (root / ASIDE,) if path.exists()]
    size = sum(taken(path).bytes for path in gone)
    for folder in stage_folders(root):
        with locked_if_free(folder / "lock") as unused:
            if not unused:
                continue
            complete = (folder / RESULT).exists()
            left = [*folder.glob(".*.tmp"), *folder.glob("*.damaged")]
            if complete:
                left += folder.glob("checkpoints")  # of a process that was killed when it had just finished
            elif unfinished:
                left = [folder]
            size += sum(taken(path).bytes for path in left)
            gone += left
            if not dry:
                for path in left:
                    _remove(path)
    if not dry:
        _remove(root / ASIDE)
    return [str(path.relative_to(root)) for path in gone], size


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sign_stages(root: Path, labels: Sequence[str], key_file: Path) -> list[str]:
    """Signs the manifests of finished stages, all or those named stage/id, after checking them; returns their labels.

    A stage has one signature: another key's is replaced.
    """
    key = read_private_key(key_file)
    wanted = _whole(root, labels)
    for folder in wanted.values():
        sign(folder, key)
    return list(wanted)


def unsigned(root: Path, key_file: Path) -> list[str]:
    """Of each finished stage that the (public) key has not signed as it is, why, in words."""
    key = read_public_key(key_file)
    return [problem for folder in finished(root) if (problem := signature_problem(folder, key))]


def _whole(root: Path, labels: Sequence[str]) -> dict[str, Path]:
    """Finished stages, all or those named stage/id, by label. Raises UserError if one is damaged or not there."""
    known = {label_of(folder): folder for folder in finished(root)}
    for label in labels:
        if label not in known:
            raise UserError(f"{label!r} is no finished stage of --root={str(root)!r}; write STAGE/ID")
    wanted = {label: known[label] for label in labels or known}
    for folder in wanted.values():
        if wrong := problems(folder):
            raise UserError(wrong[0])
    return wanted


def export(root: Path, file: Path, labels: Sequence[str]) -> list[str]:
    """Writes finished stages, all or those named stage/id, to a tar file, after checking them; returns their labels."""
    wanted = _whole(root, labels)

    def fill(opened: Any) -> None:
        with tarfile.open(fileobj=opened, mode="w|") as archive:
            for label, folder in wanted.items():
                for name in _carried(folder):
                    data = (folder / name).read_bytes()
                    member = tarfile.TarInfo(f"{label}/{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))

    try:
        replace_file(file, fill)
    except OSError as error:
        raise unwritable(file, error) from None
    return list(wanted)


def _carried(folder: Path) -> list[str]:
    """The files of a finished stage that go elsewhere with it, the result last, as it must appear."""
    beside = [MANIFEST, *([SIGNATURE] if (folder / SIGNATURE).exists() else [])]
    return [*beside, *sorted(read_manifest(folder), key=lambda name: name == RESULT)]


def import_stages(root: Path, file: Path, signed_by: Path | None = None) -> tuple[list[str], list[str]]:
    """Takes the stages of an exported file into the store, each after checking it; those taken, and those known.

    signed_by: a public key, which must have signed all of them. Raises UserError for a file that holds anything else,
    for a damaged stage, and for one that the store has with another content. Nothing is written outside of the store,
    and nothing that is there is changed; a stage that is there unsigned is given its signature.
    """
    key = None if signed_by is None else read_public_key(signed_by)
    make_folder(root)
    with tempfile.TemporaryDirectory(dir=root, prefix=".import.") as name:
        coming = Path(name)
        _unpack(file, coming)
        taken, known = [], []
        for folder in finished(coming):
            wrong = next(iter(problems(folder)), None) or (key and signature_problem(folder, key))
            if wrong:
                raise UserError(f"{file}: {wrong.replace(f'{coming}/', '')}; nothing was imported")
            there = root / label_of(folder)
            if (there / RESULT).exists():
                if read_manifest(there) != read_manifest(folder):
                    raise UserError(
                        f"{file}: {label_of(folder)} is in the store with other content; nothing was imported"
                    )
                known.append(folder)
            else:
                taken.append(folder)
        for folder in taken:
            there = root / label_of(folder)
            make_folder(there)
            with locked_if_free(there / "lock") as unused:
                if not unused:
                    raise UserError(f"{there} is being computed by another process; import again when it has ended")
                (there / SIGNATURE).unlink(missing_ok=True)  # of what is not there any more
                for name in _carried(folder):
                    os.replace(folder / name, there / name)
        for folder in known:
            there = root / label_of(folder)
            same = (there / MANIFEST).read_bytes() == (folder / MANIFEST).read_bytes()
            if same and (folder / SIGNATURE).exists() and not (there / SIGNATURE).exists():
                os.replace(folder / SIGNATURE, there / SIGNATURE)
        return [label_of(folder) for folder in taken], [label_of(folder) for folder in known]


def _unpack(file: Path, folder: Path) -> None:
    """Only files at STAGE/ID/NAME are taken; a link, a device or another place is refused."""
    try:
        with tarfile.open(file, mode="r:") as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts
                fits = len(parts) == 3 and parts[0] in STAGE_NAMES and parts[1].isalnum() and parts[2][:1] != "."
                if not (fits and member.isreg()) or member.issparse():
                    raise UserError(f"{file} holds {member.name!r}, which is no file of a stage; nothing was imported")
                target = folder.joinpath(*parts)
                make_folder(target.parent)
                source = archive.extractfile(member)
                assert source is not None
                with source, target.open("xb") as written:
                    shutil.copyfileobj(source, written)
    except UserError:
        raise
    except (tarfile.TarError, EOFError, ValueError, OverflowError, FileExistsError) as error:
        raise UserError(f"{file} is no file that `rnet store export` wrote: {error}; nothing was imported") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None
