"""Damaged stages are computed again on request, and it is said whether the bytes are those of before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rnet.config.documents import content_id, read_document, to_yaml
from rnet.config.run import load_config
from rnet.stages import stages
from rnet.stages.graph import document
from rnet.stages.keeping import finished, verify_store
from rnet.stages.recompute import Again, _configured, recompute
from rnet.stages.store import Store
from rnet.storage.manifest import label_of, write_manifest
from rnet.verdicts.examine import examine
from tests.config.test_ids import IDS, configuration, look_at
from tests.stages.test_damage import of
from tests.tiny_runs import TINY, TINY_IPGUARD, tiny

CONFIG = tiny("attack=identity", *TINY_IPGUARD)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    examine([CONFIG], Store(root))
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "store")


def flip(path: Path, bit: int = 12_345) -> None:
    data = bytearray(path.read_bytes())
    bit %= 8 * len(data)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def mended(root: Path) -> dict[str, Again]:
    damaged = verify_store(root, fix=True)[1]
    return {again.label.partition("/")[0]: again for again in recompute(root, damaged)}


def manifests(root: Path) -> dict[str, bytes]:
    return {label_of(folder): (folder / "manifest.json").read_bytes() for folder in finished(root)}


def test_a_victim_with_a_flipped_bit_comes_back_with_the_bytes_of_before(root: Path) -> None:
    before = manifests(root)
    flip(of(root, "train") / "model.safetensors")
    again = mended(root)
    assert [*again] == ["train"]  # what was computed from the same bytes is left alone
    assert (again["train"].problem, again["train"].changed) == (None, [])
    assert verify_store(root) == (4, [])
    assert manifests(root) == before


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "manifest.json"])
def test_each_file_of_every_stage_comes_back(name: str, root: Path) -> None:
    before = manifests(root)
    for folder in list(finished(root)):
        if (folder.parent.name, name) != ("verify", "config.yaml"):  # which no other stage names
            flip(folder / name)
    again = mended(root)
    assert len(again) == (3 if name == "config.yaml" else 4)
    assert not [one for one in again.values() if one.problem or one.changed]
    assert manifests(root) == before


def test_what_no_stage_names_is_told(root: Path) -> None:
    (of(root, "verify") / "config.yaml").write_text("{}")
    problem = mended(root)["verify"].problem
    assert problem is not None
    assert "no other stage names what verify/" in problem
    assert "repeat its command" in problem


def test_what_was_computed_from_other_bytes_is_computed_again(root: Path) -> None:
    before = manifests(root)
    victim = of(root, "train")
    result = json.loads((victim / "result.json").read_text())
    (victim / "result.json").write_text(json.dumps({**result, "accuracy": 0.5}))
    write_manifest(victim, {})  # as if other bytes had been sealed, from which all else would have come
    flip(victim / "model.safetensors")
    again = mended(root)
    assert again["train"].changed == ["result.json"]
    assert set(again) == {"train", "attack", "fingerprint", "verify"}
    assert all(not one.problem and Path(one.aside).is_dir() for one in again.values())
    assert manifests(root) == before


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a plugin": ({"attack": {"name": "antigravity:Attack", "plugin_version": "1"}}, "attack is a plugin"),
    "a function": (
        {"attack": {"name": "import", "function": "antigravity:ask", "function_plugin_version": "1"}},
        "attack is a plugin",
    ),
    "a file": ({"attack": {"name": "import", "weights_sha256": "0" * 64}}, "attack.weights was a file"),
    "another method": ({"method": 1}, "method was 1 and is 2"),
    "an unknown key": ({"attack": {"name": "identity", "rho": 1}}, "attack.rho"),
    "another type": ({"attack": {"name": "finetune", "iterations": "many"}}, "attack.iterations"),
    "no component": ({"attack": None}, "attack=None"),
    "an unknown precision": ({"precision": "fp8"}, "precision was 'fp8'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_configuration_runs_nothing_but_what_rnet_has(case: str, tmp_path: Path) -> None:
    changes, said = HOSTILE[case]
    own = {**document("attack", CONFIG), **changes}
    folder = tmp_path / "attack" / content_id(own)
    folder.mkdir(parents=True)
    for name, text in {"config.yaml": to_yaml(own), "result.json": "{}", "manifest.json": "{}"}.items():
        (folder / name).write_text(text)
    problem = mended(tmp_path)["attack"].problem
    assert problem is not None
    assert said in problem
    assert [path for path in tmp_path.iterdir() if path.name != "quarantine"] == [tmp_path / "attack"]
    assert not any((tmp_path / "attack").iterdir())


def test_images_are_looked_for_where_the_store_saw_them(tmp_path: Path) -> None:
    from PIL import Image

    images = tmp_path / "images"
    for number in range(40):
        place = images / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), color=number * 6).save(place)
    settings = ["dataset=image_folder", "dataset.image_size=8", "dataset.substitute_pool=8", "dataset.test_size=8"]
    kept = [line for line in TINY if not line.startswith("dataset") and "train.batch_size" not in line]
    config = load_config([*kept, *settings, f"dataset.folder={images}", "train.batch_size=8"])
    root = tmp_path / "store"
    folder = stages.train(config, Store(root)).path
    flip(folder / "model.safetensors")
    assert mended(root)["train"] == Again(
        label=label_of(folder), aside=str(root / f"quarantine/train/{folder.name}.1"), changed=[]
    )
    flip(folder / "model.safetensors")
    next(images.glob("a/*.png")).unlink()
    problem = mended(root)["train"].problem
    assert problem is not None
    assert "dataset" in problem


def test_the_configuration_of_every_option_is_read_from_its_document(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("rnet.stages.graph.look_at", look_at)
    lost = {}
    for text, expected in IDS.items():
        (tmp_path / "config.yaml").write_text(to_yaml(document("verify", configuration(text))))
        kept = read_document(tmp_path / "config.yaml")
        if (found := content_id(document("verify", _configured(kept)))) != expected:
            lost[text] = found
    assert not lost
