"""Targets: files of a store, of which digests are made right again, as one who forges them would; and its archives."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes

from launch.sweep.plan.expand import make_plan
from launch.sweep.plan.plan import Plan, read_plan, save_plan
from launch.sweep.records import submissions
from launch.sweep.records.attempts import read_attempt
from launch.sweep.show.current import Current
from launch.sweep.show.status import summary
from launch.sweep.states import StoreState
from rnet.command.status import _about
from rnet.config.documents import content_id, to_yaml
from rnet.config.run import load_config
from rnet.data.files.records import read_record
from rnet.defenses.fingerprint_file import ABOUT, TENSORS, load_fingerprint
from rnet.errors import UserError
from rnet.stages.graph import document
from rnet.stages.keeping import import_stages, problems, verify_store
from rnet.stages.pairs import FILE, pair_scores
from rnet.stages.store import StageFolder, read_result
from rnet.storage.checkpoint import Checkpoints
from rnet.storage.files import make_folder
from rnet.storage.json_files import as_json, read_information
from rnet.storage.manifest import MANIFEST, SIGNATURE, digest_of_json, write_manifest
from rnet.storage.signatures import make_keys, read_private_key, read_public_key, signature_problem
from rnet.training.monitor.json_lines import JsonLines
from tests.fuzz.settings import SWEEPS
from tests.fuzz.target import Target
from tests.fuzz.weights import TOKENS as PICKLED
from tests.fuzz.weights import saved
from tests.tiny_runs import TINY, TINY_IPGUARD

CONFIG = load_config([*TINY, *TINY_IPGUARD])
TOKENS = (
    *(
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b"0",
        b"-1",
        b"1e999",
        b"NaN",
        b"[[",
        b'{"a":',
        b",",
        b'"',
        b"\\u0000",
        b"\xff",
    ),
    *(
        b'"size"',
        b'"sha256"',
        b'"files"',
        b'"folder"',
        b'"identity"',
        b'"step"',
        b'"scores"',
        b'"metadata"',
        b'"state"',
    ),
    *(b"../", b"/etc/passwd", b"train/", b"ustar", b"\x00" * 512, b"[" * 100000),
)
RESULTS: dict[str, dict[str, Any]] = {
    "train": {"accuracy": 0.5, "test_samples": 3},
    "attack": {
        "accuracy": 0.5,
        "victim_accuracy": 0.5,
        "drop": 0.0,
        "agreement": 1.0,
        "derived": True,
        "cost": {"steps": 3},
    },
    "fingerprint": {"metadata": {}},
    "verify": {"scores": {"ipguard/matching_rate": 0.5}, "left_out": {"ipguard/x": "why"}},
}


@cache
def stage(name: str) -> tuple[str, bytes]:
    """The id and the configuration of a stage."""
    found = document(name, CONFIG)
    return content_id(found), to_yaml(found).encode()


def checkpoint(data: bytes, folder: Path) -> None:
    """The input is the file; its marker has the right digest."""
    (folder / "step-5.pt").write_bytes(data)
    marker = {"step": 5, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "identity": {"a": "b"}}
    (folder / "step-5.json").write_text(json.dumps(marker))
    found = Checkpoints(folder, identity={"a": "b"})
    step = found.latest()
    if step is not None:
        found.load(step)


def marker(data: bytes, folder: Path) -> None:
    (folder / "step-5.pt").write_bytes(b"x")
    (folder / "step-5.json").write_bytes(data)
    Checkpoints(folder, identity={"a": "b"}).latest()


def fingerprint(data: bytes, folder: Path) -> None:
    (folder / TENSORS).write_bytes(data)
    (folder / ABOUT).write_text(json.dumps({"victim": "v", "sha256": hashlib.sha256(data).hexdigest(), "metadata": {}}))
    load_fingerprint(folder, victim_id="v")


def about_fingerprint(data: bytes, folder: Path) -> None:
    (folder / TENSORS).write_bytes(FINGERPRINT)
    (folder / ABOUT).write_bytes(data)
    load_fingerprint(folder, victim_id="v")


def representation(data: bytes, folder: Path) -> None:
    place = _finished(folder, "verify", {FILE: data})
    pair_scores(Mute(), [StageFolder(place, {})] * 2)  # type: ignore[arg-type]


class Mute:
    """A defence that finds nothing."""

    def between(self, *_: Any) -> dict[str, float]:
        """Nothing."""
        return {}


def manifest(data: bytes, folder: Path) -> None:
    place = _finished(folder, "train")
    (place / MANIFEST).write_bytes(data)
    problems(place)
    read_result(place)


def sealed_manifest(data: bytes, folder: Path) -> None:
    """The input is the content; its digest is right."""
    place = _finished(folder, "train")
    try:
        content = json.loads(data)
        sealed = {**content, "sha256": digest_of_json({key: content.get(key) for key in ("folder", "files")})}
    except (ValueError, TypeError, RecursionError):
        return
    (place / MANIFEST).write_text(json.dumps(sealed))
    problems(place)
    read_result(place)


def result(data: bytes, folder: Path) -> None:
    name = ("train", "attack", "fingerprint", "verify")[len(data) % 4]
    place = _finished(folder, name, {"result.json": data})
    if not problems(place):
        read_result(place, stage(name)[1])


def configuration(data: bytes, folder: Path) -> None:
    place = _finished(folder, "train", {"config.yaml": data})
    problems(place)
    read_result(place, stage("train")[1])


def status(data: bytes, folder: Path) -> None:
    (folder / "status.json").write_bytes(data)
    read_information(folder / "status.json")
    (folder / "status.json").write_bytes(data)
    _about(folder)


def sealed_status(data: bytes, folder: Path) -> None:
    """The input is a status; its digest is right. What a stage reads of it when it goes on."""
    try:
        content = json.loads(data)
        content["sha256"] = digest_of_json(content)
    except (ValueError, TypeError, RecursionError):
        return
    place = folder / "train" / stage("train")[0]
    make_folder(place)
    (place / "status.json").write_text(json.dumps(content))
    with StageFolder(place, document("train", CONFIG)).building():
        pass


def log(data: bytes, folder: Path) -> None:
    (folder / "log.jsonl").write_bytes(data)
    _about(folder)
    opened = JsonLines(folder / "log.jsonl", 3)
    opened.write(3, {"loss": 1.0})
    opened.close()


def archive(data: bytes, folder: Path) -> None:
    (folder / "in.tar").write_bytes(data)
    import_stages(folder / "store", folder / "in.tar")
    verify_store(folder / "store")


def archived_result(data: bytes, folder: Path) -> None:
    """The input is a result in an archive that is right otherwise."""
    (folder / "in.tar").write_bytes(exported(folder / "out", {"result.json": data}))
    import_stages(folder / "store", folder / "in.tar")


def plan(data: bytes, folder: Path) -> None:
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "sweeps" / "s.json").write_bytes(data)
    found = read_plan(folder / "sweeps" / "s.json")
    if len(found.cells) < 100:
        summary(as_current(found, folder), StoreState(found, folder, ask=False))


def as_current(found: Plan, folder: Path) -> Current:
    """The plan as a sweep whose file has not changed."""
    return Current(plan=found, root=folder, file=folder / "s.yaml")


def submission(data: bytes, folder: Path) -> None:
    (folder / "submissions").mkdir(exist_ok=True)
    (folder / "submissions" / "t.json").write_bytes(data)
    StoreState(the_plan(), folder, ask=False)


def attempt(data: bytes, folder: Path) -> None:
    cell = the_plan().cells[0]
    place = folder / "attempts" / cell.stage
    make_folder(place)
    (place / f"{cell.id}.0001.json").write_bytes(data)
    read_attempt(folder, cell.stage, cell.id, 1)
    summary(as_current(the_plan(), folder), StoreState(the_plan(), folder, ask=False))


def seen(data: bytes, folder: Path) -> None:
    (folder / "seen.json").write_bytes(data)
    read_record(folder / "seen.json")


def keys(data: bytes, folder: Path) -> None:
    """The input is a public key, a private one, and a signature."""
    path = folder / "key"
    path.write_bytes(data)
    path.chmod(0o600)
    place = _finished(folder, "train")
    (place / SIGNATURE).write_bytes(data)
    with contextlib.suppress(UserError):
        read_private_key(path)
    signature_problem(place, read_public_key(path))


def _key_files() -> list[bytes]:
    with tempfile.TemporaryDirectory() as name:
        beside = make_keys(Path(name) / "key")
        return [beside.read_bytes(), (Path(name) / "key").read_bytes()]


def _finished(root: Path, name: str, files: dict[str, bytes] | None = None) -> Path:
    """A finished stage with a right manifest, some of whose files are as given."""
    place = root / name / stage(name)[0]
    make_folder(place)
    content = {"config.yaml": stage(name)[1], "result.json": as_json(RESULTS[name]), **(files or {})}
    for path in place.iterdir():
        path.unlink()
    for file, data in content.items():
        if file != "result.json":
            (place / file).write_bytes(data)
    write_manifest(place, {"result.json": content["result.json"]})
    (place / "result.json").write_bytes(content["result.json"])
    return place


def exported(root: Path, files: dict[str, bytes] | None = None) -> bytes:
    """An archive with one stage, made in the folder."""
    place = _finished(root, "train", files)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for path in sorted(place.iterdir()):
            opened.add(path, f"train/{place.name}/{path.name}")
    return buffer.getvalue()


def _manifest() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        found: dict[str, Any] = json.loads((_finished(Path(name), "train") / MANIFEST).read_bytes())
    return found


def _archives() -> list[bytes]:
    with tempfile.TemporaryDirectory() as name:
        return [exported(Path(name))]


@cache
def the_plan() -> Plan:
    """A small plan."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "s.yaml"
        path.write_bytes(SWEEPS[0])
        return make_plan(path)


def _plan_bytes() -> list[bytes]:
    with tempfile.TemporaryDirectory() as name:
        return [save_plan(the_plan(), Path(name)).read_bytes()]


def _submission_bytes() -> list[bytes]:
    found = submissions.new_submission(the_plan(), "train", [[0]], {}, None)
    return [as_json(vars(found)), as_json({**vars(found), "job": "12", "state": "submitted"})]


def _bytes(*documents: Any) -> Any:
    return lambda: [as_json(document) for document in documents]


FINGERPRINT = safetensors_bytes({"queries": torch.ones(2, 3), "labels": torch.zeros(2, dtype=torch.int64)})
STATUS = {
    "state": "running",
    "attempt": 2,
    "seconds": 1.5,
    "pid": 1,
    "host": "x",
    "step": 3,
    "total": 9,
    "versions": {},
}
ATTEMPT = {
    "stage": "train",
    "id": "0",
    "attempt": 1,
    "state": "running",
    "started": 1.0,
    "updated": 2.0,
    "beats": 3,
    "token": "t",
    "job": None,
    "restart": 0,
    "snapshot": None,
    "host": "x",
    "node": None,
    "pid": 1,
    "user": "u",
    "seconds": 2.0,
}
MARKER = {"step": 5, "sha256": hashlib.sha256(b"x").hexdigest(), "size": 1, "identity": {"a": "b"}}
LOG = b'{"step": 1, "time": 1.0, "loss": 2.0}\n{"step": 2, "time": 2.0, "loss": NaN}\n{"step": 3, "time": 3.0}\n'
SEEN = {"folder": "x", "files": {"a.png": [1, 2, 3, "0" * 64, True], "b.png": [1, 2, 3, None, False]}}


def _checkpoints() -> list[bytes]:
    state = {"model": {"w": torch.ones(3, 2)}, "step": 5, "list": [1, None, "x"], "tuple": (1.5, torch.zeros(1))}
    return [saved(state), saved(state, _use_new_zipfile_serialization=False), saved([1]), saved({})]


TARGETS = [
    Target(name="checkpoints", weight=4, run=checkpoint, seeds=_checkpoints, tokens=PICKLED),
    Target(name="markers of checkpoints", weight=3, run=marker, seeds=_bytes(MARKER), tokens=TOKENS),
    Target(name="fingerprints", weight=5, run=fingerprint, seeds=lambda: [FINGERPRINT], tokens=PICKLED),
    Target(
        name="fingerprint.json",
        weight=4,
        run=about_fingerprint,
        seeds=_bytes({"victim": "v", "sha256": hashlib.sha256(FINGERPRINT).hexdigest(), "metadata": {"k": 2}}),
        tokens=TOKENS,
    ),
    Target(name="representations", weight=0.7, run=representation, seeds=lambda: [FINGERPRINT], tokens=PICKLED),
    Target(
        name="manifests",
        weight=1,
        run=manifest,
        seeds=lambda: [as_json(_manifest())],
        tokens=TOKENS,
    ),
    Target(
        name="manifests, sealed",
        weight=1,
        run=sealed_manifest,
        seeds=lambda: [as_json({key: _manifest()[key] for key in ("folder", "files")})],
        tokens=TOKENS,
    ),
    Target(name="result.json", weight=0.5, run=result, seeds=_bytes(*RESULTS.values()), tokens=TOKENS),
    Target(name="config.yaml", weight=0.4, run=configuration, seeds=lambda: [stage("train")[1]], tokens=TOKENS),
    Target(
        name="status.json",
        weight=2,
        run=status,
        seeds=_bytes({**STATUS, "sha256": digest_of_json(STATUS)}),
        tokens=TOKENS,
    ),
    Target(name="status.json, sealed", weight=1, run=sealed_status, seeds=_bytes(STATUS), tokens=TOKENS),
    Target(name="log.jsonl", weight=1, run=log, seeds=lambda: [LOG], tokens=TOKENS),
    Target(name="archives", weight=1, run=archive, seeds=_archives, tokens=TOKENS),
    Target(name="results in archives", weight=0.3, run=archived_result, seeds=_bytes(RESULTS["train"]), tokens=TOKENS),
    Target(name="keys", weight=1, run=keys, seeds=_key_files, tokens=TOKENS),
    Target(name="plans", weight=3, run=plan, seeds=_plan_bytes, tokens=TOKENS),
    Target(name="submissions", weight=3, run=submission, seeds=_submission_bytes, tokens=TOKENS),
    Target(name="attempts", weight=2, run=attempt, seeds=_bytes(ATTEMPT), tokens=TOKENS),
    Target(name="records of folders", weight=6, run=seen, seeds=_bytes(SEEN), tokens=TOKENS),
]
