"""Damaged stages computed again, each from its own configuration or from that of a stage that was computed from it.

What is known of a stage is its document, whose hash is its name, so a document that leads to the name is the right one.
Only rnet's own components are run: a document in a store may come from anybody, and so may the plugin that it names.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from rnet.config.components import GROUPS
from rnet.config.documents import LEGACY_KEYS, content_id, read_document
from rnet.config.run import RunConfig, load_config
from rnet.config.typed import component, component_class, held_components
from rnet.data.config import DatasetConfig
from rnet.data.files.digest import looked_at_once, record_name
from rnet.data.files.records import folders_seen
from rnet.errors import UserError
from rnet.stages.graph import GRAPH, STAGE_NAMES, Document
from rnet.stages.graph import document as document_of
from rnet.stages.keeping import Damage, finished, set_aside
from rnet.stages.sizes import stage_folders
from rnet.stages.stages import ensure
from rnet.stages.store import Store
from rnet.storage.manifest import MANIFEST, SIGNATURE, digest_of, label_of, listed_files, read_manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Again:
    """What came of a stage: problem, in words, where it could not be computed; else the files whose bytes are others.

    aside: where the stage of before is.
    """

    label: str
    aside: str
    changed: list[str] = field(default_factory=list)
    problem: str | None = None


def recompute(root: Path, damaged: Sequence[Damage]) -> list[Again]:
    """Computes stages that were set aside, parents first, and those that were computed from other bytes than now.

    A stage whose new bytes are those of before changes nothing for what was computed from it.
    """
    places = {found.label: Path(found.aside) for found in damaged if found.aside is not None}
    known = _documents(root, places.values())
    done = []
    for stage in STAGE_NAMES:
        for label in [label for label in places if label.startswith(f"{stage}/")]:
            one = _again(root, label, places[label], known.get(label))
            done.append(one)
            if one.changed:
                logger.warning("%s has other bytes than before; what was computed from it is computed again", label)
                for folder in _computed_from(root, label, known):
                    places[label_of(folder)] = Path(set_aside(root, folder))
    return done


def _again(root: Path, label: str, aside: Path, document: Document | None) -> Again:
    if document is None:
        problem = f"{aside / 'config.yaml'} is damaged and no other stage names what {label} was; repeat its command"
        return Again(label=label, aside=str(aside), problem=problem)
    try:
        with looked_at_once(root):
            folder = ensure(document["stage"], _run_of(document, root), Store(root))
            now = folder.files()
    except UserError as error:
        return Again(label=label, aside=str(aside), problem=str(error))
    try:
        before = read_manifest(aside, label)
    except UserError:  # then the files are what there is to compare with
        before = {path.name: digest_of(path) for path in listed_files(aside)}
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if not changed and (aside / SIGNATURE).exists() and _same(aside / MANIFEST, folder.path / MANIFEST):
        shutil.copy(aside / SIGNATURE, folder.path / SIGNATURE)
    return Again(label=label, aside=str(aside), changed=changed)


def _same(one: Path, other: Path) -> bool:
    return digest_of(one) == digest_of(other)


def _documents(root: Path, aside: Iterable[Path]) -> dict[str, Document]:
    """By label, every document that the configurations of the store and of the folders set aside hold."""
    found: dict[str, Document] = {}
    for folder in (*stage_folders(root), *aside):
        path = folder / "config.yaml"
        try:
            lineage = list(_lineage(read_document(path)))
            found |= {f"{one['stage']}/{content_id(one)}": one for one in lineage}
        except (UserError, ValueError, KeyError, TypeError):  # a damaged one says nothing
            continue
    return found


def _lineage(document: Document) -> Iterator[Document]:
    """The document and those of all its ancestors."""
    yield document
    for parent in GRAPH[document["stage"]].parents:
        yield from _lineage(document[parent])


def _computed_from(root: Path, label: str, known: Mapping[str, Document]) -> list[Path]:
    """The finished stages that a stage is an ancestor of."""
    wanted = label.partition("/")[2]
    return [
        folder
        for folder in finished(root)
        if (own := known.get(label_of(folder))) and wanted in [content_id(one) for one in _lineage(own)][1:]
    ]


def _run_of(document: Document, root: Path) -> RunConfig:
    """The run that has such a stage; its images are looked for in the known places, and where the store saw some.

    Raises UserError if they are not there, or anything else that the stage depends on is not as it was.
    """
    config = _configured(document)
    own = [config.dataset, *([config.substitute] if isinstance(config.substitute, DatasetConfig) else [])]
    problem: UserError | None = None
    for folders in product(*([None, *folders_seen(root, record_name(one))] for one in own)):
        sets = [replace(one, folder=folder) for one, folder in zip(own, folders, strict=True)]
        here = replace(config, dataset=sets[0], substitute=sets[1] if len(sets) > 1 else config.substitute)
        try:
            now = document_of(document["stage"], here)
            if content_id(now) == content_id(document):
                return here
            problem = problem or UserError(f"what it depends on is not as it was: {_difference(document, now)}")
        except UserError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _configured(document: Document) -> RunConfig:
    settings: dict[str, Any] = {}
    for one in _lineage(document):
        settings |= {key: one[key] for key in GRAPH[one["stage"]].own if key in one}
    top = [f"{key}={value}" for key, value in settings.items() if key not in GROUPS]
    made = {key: _component(key, key, value) for key, value in settings.items() if key in GROUPS}
    return replace(load_config(top), **made)


def _component(group: str, place: str, settings: Any) -> Any:
    """A component's dataclass, from what ids say of it. Raises UserError for a plugin, and for one made from a file."""
    if not isinstance(settings, dict):
        raise UserError(f"{place}={settings!r} is no component; it is of another version of rnet")
    name = settings.get("name")
    if any(":" in str(settings.get(key)) for key in ("name", "function")):
        raise UserError(f"{place} is a plugin, which only its own command runs; repeat that command")
    kind = component_class(group, name)
    held = held_components(kind)
    kept = {}
    for key, value in settings.items():
        setting = key.removesuffix("_sha256")
        if key == "files_sha256" or (value is None and key in LEGACY_KEYS.get(group, {})):
            continue
        if key != setting:
            raise UserError(f"{place}.{setting} was a file, and where it was is not kept; repeat the stage's command")
        kept[key] = _component(key, f"{place}.{key}", value) if key in held and value is not None else value
    return component(group, kept)


def _difference(before: Any, now: Any, place: str = "") -> str:
    """The first setting that differs between two documents, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{place}.{key}".lstrip("."))
    return f"{place} was {before!r} and is {now!r}"
