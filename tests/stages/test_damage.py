"""Finished stages are believed only as they were written; what is damaged is named, set aside and computed again."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rnet.errors import UserError
from rnet.stages import stages
from rnet.stages.keeping import clear, export, finished, import_stages, verify_store
from rnet.stages.sizes import sizes, stage_folders
from rnet.stages.store import Store
from rnet.storage.json_files import digest_of_json, write_json
from rnet.storage.manifest import listed_files
from rnet.verdicts.examine import examine
from tests.faults import flips
from tests.tiny_runs import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    flips.make(root)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "store")


def of(root: Path, stage: str) -> Path:
    """A finished stage of the store."""
    return next(path for path in finished(root) if path.parent.name == stage)


def test_no_flipped_bit_changes_a_number_in_silence(root: Path) -> None:
    outcomes = flips.campaign(root, 90, seed=1)
    assert not outcomes["silent"]
    assert not outcomes["traceback"]
    assert outcomes["named"] >= 30


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "a truncated result": ("result.json", lambda data: data[:-4], "bytes instead of"),
    "another digit in a result": ("result.json", lambda data: data.replace(b"0.", b"1.", 1), "SHA-256"),
    "weights cut off": ("model.safetensors", lambda data: data[:-1], "bytes instead of"),
    "weights gone": ("model.safetensors", lambda data: None, "is missing"),
    "a manifest that is no JSON": ("manifest.json", lambda data: b"\xff\x00", "is damaged"),
    "a manifest of a list": ("manifest.json", lambda data: b"[]", "is damaged"),
    "a manifest of another folder": ("manifest.json", lambda data: data.replace(b"train/", b"attack/"), "is damaged"),
    "no manifest": ("manifest.json", lambda data: None, "no manifest.json"),
    "another configuration": ("config.yaml", lambda data: data + b"x: 1\n", "config.yaml is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_with_the_way_out_and_set_aside(case: str, root: Path) -> None:
    name, damage, said = DAMAGE[case]
    path = of(root, "train") / name
    damaged = damage(path.read_bytes())
    path.unlink() if damaged is None else path.write_bytes(damaged)
    with pytest.raises(UserError, match=said) as caught:
        flips.seen(root)
    assert str(path.parent) in str(caught.value)
    assert "rnet store verify --fix" in str(caught.value)
    count, found = verify_store(root, fix=True)
    assert count == 8
    assert [one.label for one in found] == [f"train/{path.parent.name}"]
    assert not path.parent.exists()
    assert found[0].aside is not None
    assert Path(found[0].aside).is_dir()
    again = stages.train(flips.CONFIG, Store(root))
    assert again.result() is not None
    assert verify_store(root)[1] == []


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"null", b"{", b'{"attempt": "x"', b""])
def test_a_damaged_status_stops_nothing(content: bytes, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = stages.attack(flips.CONFIG, Store(root)).path / "status.json"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        (row,) = examine([flips.CONFIG], Store(root))
    assert row["metrics"]
    assert "status.json.damaged" in caplog.text
    assert path.with_name("status.json.damaged").read_bytes() == content


REPLACED: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to a result": lambda path: path.symlink_to(path.with_name("result.json")),
}


@pytest.mark.parametrize("case", REPLACED)
@pytest.mark.parametrize("name", ["status.json", "log.jsonl", "lock"])
def test_what_is_no_file_where_information_should_be_stops_nothing_and_overwrites_nothing(
    name: str, case: str, made: Path, root: Path
) -> None:
    folder = of(root, "train")
    (folder / "result.json").unlink()
    (folder / name).unlink()
    REPLACED[case](folder / name)
    if name == "lock" and case != "a pipe":
        with pytest.raises(UserError, match=r"lock: .*; it is in the way: delete it"):
            stages.train(flips.CONFIG, Store(root))
        (folder / name).rmdir() if case == "a folder" else (folder / name).unlink()
    stages.train(flips.CONFIG, Store(root))
    for path in (folder / "result.json", folder / "manifest.json", folder / "model.safetensors"):
        assert path.read_bytes() == (made / path.relative_to(root)).read_bytes()
    assert verify_store(root)[1] == []


@pytest.mark.parametrize("name", ["result.json", "manifest.json", "model.safetensors"])
def test_a_pipe_in_the_place_of_a_file_is_named_and_set_aside(name: str, root: Path) -> None:
    path = of(root, "train") / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"no regular file.*rnet store verify --fix"):
        flips.seen(root)
    assert len(verify_store(root, fix=True)[1]) == 1
    assert not path.parent.exists()


def test_what_was_set_aside_is_no_part_of_a_stage(root: Path) -> None:
    folder = of(root, "train")
    (folder / "status.json.damaged").write_bytes(b"x")
    assert verify_store(root)[1] == []
    (folder / "result.json").unlink()
    stages.train(flips.CONFIG, Store(root))
    clear(root, unfinished=False, dry=False)
    assert verify_store(root)[1] == []


def test_a_status_whose_digest_has_lost_its_name_is_damaged(root: Path) -> None:
    path = stages.attack(flips.CONFIG, Store(root)).path / "status.json"
    path.write_bytes(path.read_bytes().replace(b'"sha256"', b'"shq256"'))
    assert stages.attack(flips.CONFIG, Store(root)).status() == {}
    path.write_text('{"attempt": 3}')  # as older versions wrote it
    assert stages.attack(flips.CONFIG, Store(root)).status() == {"attempt": 3}


def test_what_a_killed_process_had_begun_to_write_is_gone_after_the_next_run(tmp_path: Path) -> None:
    folder = stages.train(tiny(), Store(tmp_path))
    left = folder.path / ".config.yaml.0123abcd.tmp"
    (folder.path / "result.json").unlink()
    left.write_bytes(b"half")
    stages.train(tiny(), Store(tmp_path))
    assert not left.exists()


def test_stages_of_older_versions_are_sealed_on_request(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in finished(root):
        (folder / "manifest.json").unlink()
    assert len(verify_store(root)[1]) == 8
    with caplog.at_level(logging.WARNING):
        assert verify_store(root, seal=True) == (8, [])
    assert "8 stages were sealed" in caplog.text
    flips.seen(root)


def test_a_folder_under_another_name_is_damaged(root: Path) -> None:
    folder = of(root, "train")
    other = folder.with_name("0" * 16)
    folder.rename(other)
    (damage,) = verify_store(root)[1]
    assert "is that of" in damage.problems[0]
    (other / "manifest.json").unlink()
    (damage,) = verify_store(root, seal=True)[1]  # not sealed: its configuration has another id
    assert "no manifest.json" in damage.problems[0]


def test_exported_stages_are_the_same_elsewhere(root: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "stages.tar", tmp_path / "other"
    labels = export(root, file, [])
    assert len(labels) == 8
    assert import_stages(other, file) == (labels, [])
    assert import_stages(other, file) == ([], labels)
    numbers = [{key: value for key, value in row.items() if key != "seconds"} for row in flips.seen(root)[0]]
    assert numbers == [{key: value for key, value in row.items() if key != "seconds"} for row in flips.seen(other)[0]]
    assert not [path for path in other.iterdir() if path.name.startswith(".")]


def test_a_damaged_stage_is_not_exported(root: Path, tmp_path: Path) -> None:
    (of(root, "attack") / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="bytes instead of"):
        export(root, tmp_path / "stages.tar", [])
    assert not (tmp_path / "stages.tar").exists()


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/passwd", "train/0123/../../x", "other/0123/a", "train/0123", "train/0123/.hidden", "a/b/c/d"],
)
def test_a_foreign_archive_writes_nothing(name: str, tmp_path: Path) -> None:
    file = tmp_path / "foreign.tar"
    with tarfile.open(file, "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(UserError, match="nothing was imported"):
        import_stages(tmp_path / "store", file)
    assert {path.name for path in tmp_path.rglob("*")} == {"foreign.tar", "store"}


def test_nothing_is_taken_but_what_a_manifest_lists_and_no_manifest_lists_what_is_elsewhere(
    root: Path, tmp_path: Path
) -> None:
    folder, file = of(root, "train"), tmp_path / "stages.tar"
    with tarfile.open(file, "w") as archive:
        for path in (*listed_files(folder), folder / "manifest.json", folder / "status.json"):
            archive.add(path, f"train/{folder.name}/{path.name}")
    import_stages(tmp_path / "other", file)
    assert {path.name for path in of(tmp_path / "other", "train").iterdir()} == {
        "config.yaml", "lock", "manifest.json", "model.safetensors", "result.json"
    }  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"]["../model.safetensors"] = manifest["files"]["model.safetensors"]
    shutil.copy(folder / "model.safetensors", folder.parent)
    write_json(folder / "manifest.json", {**manifest, "sha256": digest_of_json(manifest)})
    (damage,) = verify_store(root)[1]
    assert "manifest.json is damaged" in damage.problems[0]


def test_links_in_an_archive_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "links.tar"
    with tarfile.open(file, "w") as archive:
        member = tarfile.TarInfo("train/0123/model.safetensors")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UserError, match="no file of a stage"):
        import_stages(tmp_path / "store", file)


def test_another_content_under_a_known_id_is_refused(root: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "stages.tar", shutil.copytree(root, tmp_path / "other")
    folder = of(other, "verify")
    (folder / "result.json").write_text('{"scores": {"ipguard/matching_rate": 0.5}}')
    (folder / "manifest.json").unlink()
    verify_store(other, seal=True)
    export(other, file, [f"verify/{folder.name}"])
    with pytest.raises(UserError, match="is in the store with other content"):
        import_stages(root, file)
    flips.seen(root)


def test_clearing_takes_leftovers_and_leaves_results(root: Path) -> None:
    before = flips.seen(root)
    left = [of(root, "train") / ".x.0123.tmp", of(root, "attack") / "status.json.damaged"]
    for path in left:
        path.write_bytes(b"left")
    spare = of(root, "train") / "checkpoints"
    spare.mkdir()
    begun = root / "attack" / ("f" * 16) / "checkpoints"
    begun.mkdir(parents=True)
    names, size = clear(root, unfinished=False, dry=True)
    assert len(names) == 3
    assert size == 8
    assert all(path.exists() for path in left)
    clear(root, unfinished=False, dry=False)
    assert not any(path.exists() for path in left)
    assert not spare.exists()
    assert begun.exists()
    clear(root, unfinished=True, dry=False)
    assert not begun.parent.exists()
    assert flips.seen(root) == before
    assert (sizes(root)["train"]["finished"], sizes(root)["train"]["unfinished"]) == (1, 0)


def test_sizes_are_those_of_the_files(root: Path) -> None:
    found = sizes(root)
    for stage, row in found.items():
        assert row["bytes"] == sum(os.stat(path).st_size for path in (root / stage).rglob("*") if path.is_file())
    assert [row["finished"] for row in found.values()] == [1, 3, 1, 3]


def test_what_several_refer_to_counts_for_each_and_alone_for_none(root: Path) -> None:
    victim, *others = [f"{folder.parent.name}/{folder.name}" for folder in stage_folders(root)]
    os.utime(root / victim / "result.json", (1.0, 2**33))
    found = sizes(root, {"a": {victim, others[0]}, "b": {victim}, "empty": set()})
    size = {
        label: sum(p.stat().st_size for p in (root / label).rglob("*") if p.is_file()) for label in (victim, others[0])
    }
    sweeps = found["sweeps"]
    assert [row["bytes"] for row in sweeps.values()][:3] == [sum(size.values()), size[victim], 0]
    assert [row["alone"] for row in sweeps.values()][:3] == [size[others[0]], 0, 0]
    assert sweeps["no sweep"]["finished"] == len(others) - 1
    assert sweeps["no sweep"]["alone"] == sweeps["no sweep"]["bytes"]
    assert sweeps["b"]["newest"] == 2**33 > sweeps["no sweep"]["newest"] >= sweeps["no sweep"]["oldest"]
    assert sweeps["empty"]["newest"] is None


def test_the_manifest_lists_all_that_later_stages_read(root: Path) -> None:
    listed = {
        stage: {*json.loads((of(root, stage) / "manifest.json").read_text())["files"]}
        for stage in ("train", "fingerprint", "verify")
    }
    assert listed["train"] == {"config.yaml", "model.safetensors", "result.json"}
    assert listed["fingerprint"] == {"config.yaml", "fingerprint.json", "fingerprint.safetensors", "result.json"}
    assert listed["verify"] >= {"config.yaml", "result.json"}
