"""Files of a store whose digests somebody made right again: refused in one line, never half understood."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.sweep.plan.plan import read_plan, save_plan
from launch.sweep.records import submissions
from launch.sweep.records.attempts import read_attempt
from rnet.config.documents import content_id, to_yaml
from rnet.data.datasets.fashion_mnist import read_idx
from rnet.data.files.classes import read_class_map
from rnet.data.files.records import read_record
from rnet.data.files.tree import read_tree
from rnet.errors import UserError
from rnet.stages.keeping import import_stages, problems
from rnet.storage.checkpoint import Checkpoints
from rnet.storage.manifest import write_manifest
from rnet.storage.shapes import fits
from tests.launch.sweep.sweeps import tiny_plan


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"PK\x03\x04", [1], {"a": object}, "cut"], ids=str)
def test_a_checkpoint_with_a_right_digest_and_no_state_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "step-5.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"w": torch.ones(3)} if content == "cut" else content, path)
        path.write_bytes(path.read_bytes()[: -30 if content == "cut" else None])
    data = path.read_bytes()
    marker = {"step": 5, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "identity": {}}
    (tmp_path / "step-5.json").write_text(json.dumps(marker))
    found = Checkpoints(tmp_path, identity={})
    assert found.latest() == 5
    with pytest.raises(UserError, match=r"step-5\.pt.*delete"):
        found.load(5)


RESULTS = {
    "train": ["{}", "[]", "null", '{"accuracy": "1"}', '{"accuracy": true}', "[" * 100_000],
    "attack": [
        '{"accuracy": 0.5}',
        '{"accuracy": 1, "victim_accuracy": 1, "drop": 0, "agreement": 1, "derived": 1, "cost": {}}',
    ],
    "fingerprint": ['{"metadata": []}'],
    "verify": ['{"scores": {"a/b": null}}', '{"scores": [1]}', '{"scores": {}, "left_out": {"a": 1}}'],
}


@pytest.mark.parametrize(("stage", "text"), [(stage, text) for stage in RESULTS for text in RESULTS[stage]])
def test_a_result_that_lacks_what_its_stage_says_is_damage(stage: str, text: str, tmp_path: Path) -> None:
    document = {"stage": stage}
    folder = tmp_path / stage / content_id(document)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(document))
    write_manifest(folder, {"result.json": text.encode()})
    (folder / "result.json").write_text(text)
    assert problems(folder) == [f"{folder / 'result.json'} lacks what a result of {stage} says"]


def _plan(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(save_plan(tiny_plan(path, "until=train"), path).read_bytes())
    return found


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a key is missing": lambda plan: plan.pop("cells"),
    "no object": lambda plan: plan.update(rows=[1]),
    "a cell too short": lambda plan: plan["cells"][0].pop(),
    "a parent that comes later": lambda plan: plan["cells"][0].__setitem__(2, [0]),
    "settings that are not there": lambda plan: plan["cells"][0].__setitem__(-1, [99]),
    "an id that leads elsewhere": lambda plan: plan["cells"][0].__setitem__(1, "../../x"),
    "a row of cells that are not there": lambda plan: plan["rows"][0][1].update(train=99),
    "an unknown resource": lambda plan: plan["shapes"][0].update(x=1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_that_does_not_hold_together_is_refused(change: str, tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    path = tmp_path / "sweeps" / "tiny.json"
    assert read_plan(path).cells
    CHANGES[change](plan)
    path.write_text(json.dumps(plan))
    with pytest.raises(UserError, match=r"tiny\.json.*run rnet sweep submit again"):
        read_plan(path)


def test_records_of_other_shapes_are_refused_and_what_is_only_information_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "submissions").mkdir()
    (tmp_path / "attempts" / "train").mkdir(parents=True)
    for text in ("[]", '{"token": 1}', "[" * 100_000):
        (tmp_path / "submissions" / "t.json").write_text(text)
        (tmp_path / "attempts" / "train" / "0.0001.json").write_text(text)
        with pytest.raises(UserError, match=r"t\.json"):
            submissions.read(tmp_path, "t")
        with pytest.raises(UserError, match=r"0\.0001\.json"):
            read_attempt(tmp_path, "train", "0", 1)
    (tmp_path / "seen.json").write_text('{"files": {"a": [1, 2]}}')
    assert read_record(tmp_path / "seen.json") is None


@pytest.mark.parametrize(
    ("value", "shape", "does"),
    [
        (1, int, True), (True, int, False), (True, (bool, int), True), (None, (str, type(None)), True),
        ("1", int, False),
        ([1, 2], [int], True), ([1, "2"], [int], False), ({"a": 1}, {str: int}, True), ({"a": []}, {str: int}, False),
        ({"a": 1, "b": 2}, {"a": int}, True), ({"b": 2}, {"a": int}, False), ([], {"a": int}, False), ({}, dict, True),
    ],
)  # fmt: skip
def test_a_shape_says_what_a_document_must_look_like(value: Any, shape: Any, does: bool) -> None:
    assert fits(value, shape) is does


def test_a_sparse_member_of_an_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    member = tarfile.TarInfo("train/0123/model.safetensors")
    member.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": member.name,
        "GNU.sparse.realsize": str(2**40),
    }  # fmt: skip
    content = b"1\n1099511627775\n1\n".ljust(512, b"\0") + b"x".ljust(512, b"\0")
    member.size = len(content)
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(content))
    with pytest.raises(UserError, match=r"holds 'train/0123/model\.safetensors', which is no file of a stage"):
        import_stages(tmp_path / "store", tmp_path / "s.tar")


def test_an_idx_file_that_unpacks_to_more_than_it_announces_is_not_unpacked(tmp_path: Path) -> None:
    header = bytes((0, 0, 8, 1, 0, 0, 0, 4))
    (tmp_path / "a.gz").write_bytes(gzip.compress(header + bytes(2**24)))
    with pytest.raises(UserError, match="announces 4 = 4 bytes but holds more"):
        read_idx(tmp_path / "a.gz", 1)
    (tmp_path / "b.gz").write_bytes(gzip.compress(bytes((0, 0, 8, 1, 255, 255, 255, 255)) + bytes(2**20)))
    with pytest.raises(UserError, match="announces 4294967295 = 4294967295 bytes, more than the 268435456"):
        read_idx(tmp_path / "b.gz", 1)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["a pipe", "a device"])
def test_a_class_map_and_an_image_that_are_no_files_are_not_waited_for(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "map")
    with pytest.raises(UserError, match="it is a pipe or a device"):
        read_class_map(str(tmp_path / "map"))
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "1.png").symlink_to(tmp_path / "map")
    assert read_tree(tmp_path / "images", [".png"]).others == ["a/1.png"]
