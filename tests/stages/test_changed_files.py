"""Stages follow the files of a data set: changed ones make another victim, and of changing ones nothing is stored."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from launch.sweep.plan.expand import make_plan
from launch.sweep.records.attempts import Worker, latest_attempt
from launch.sweep.work.cell import Job, run_cell
from rnet.config.run import RunConfig, load_config
from rnet.data.files.digest import looked_at_once, remember_looks
from rnet.errors import UserError
from rnet.stages import stages
from rnet.stages.graph import document
from rnet.stages.store import Store
from rnet.training.signals import Preempted
from tests.launch.sweep.sweeps import write_sweep

SETTINGS = [
    "dataset=image_folder", "dataset.image_size=8", "dataset.substitute_pool=16", "model=resnet8", "model.width=4",
    "train.epochs=1", "train.batch_size=8", "engine.device=cpu", "attack=finetune", "attack.iterations=2",
    "attack.batch_size=8", "attack.substitute_size=16",
]  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Sixty images of two classes."""
    for i in range(60):
        write(tmp_path / "images" / "ab"[i % 2] / f"{i:02}.png", i)
    return tmp_path / "images"


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def config(images: Path, *overrides: str) -> RunConfig:
    return load_config([*SETTINGS, f"dataset.folder={images}", *overrides])


def finished(root: Path, stage: str) -> list[str]:
    return sorted(path.parent.name for path in (root / stage).glob("*/result.json"))


def change_while_training(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    original = stages.train_classifier

    def train(*arguments: Any, **settings: Any) -> None:
        original(*arguments, **settings)
        change()

    monkeypatch.setattr(stages, "train_classifier", train)


def test_one_victim_for_two_paths_and_another_for_changed_images(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "link").symlink_to(images)
    victim = stages.train(config(images), store)
    assert (victim.result() or {})["digest"] == "content"
    assert stages.train(config(tmp_path / "link"), store).id == victim.id
    assert finished(store.root, "train") == [victim.id]
    write(images / "a" / "00.png", 99)
    suspect = stages.attack(config(images), store)
    victims = finished(store.root, "train")
    assert len(victims) == 2
    assert document("attack", config(images))["victim"]["dataset"]["files_sha256"] in str(suspect.document)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed image": (lambda images: write(images / "a" / "00.png", 99), "1 file with other content (a/00.png)"),
    "an image more": (lambda images: write(images / "b" / "new.png", 99), "1 file added (b/new.png)"),
    "an image less": (lambda images: (images / "a" / "00.png").unlink(), "1 file removed (a/00.png)"),
    "a folder that is gone": (lambda images: images.rename(images.parent / "gone"), "is not a folder"),
}


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("max_memory_mb", [0, 100])
def test_nothing_is_stored_of_images_that_change_while_they_are_trained_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, max_memory_mb: int
) -> None:
    change, words = CHANGES[kind]
    change_while_training(monkeypatch, lambda: change(images))
    monkeypatch.setattr(
        stages, "predict", lambda model, part, who: part.labels_N
    )  # which would need the image on demand
    root = tmp_path / "store"
    with pytest.raises(UserError) as error:
        stages.train(config(images, f"dataset.max_memory_mb={max_memory_mb}"), Store(root))
    assert str(error.value).startswith(
        "the images of dataset=image_folder changed while train was computed from them: "
    )
    assert words in str(error.value)
    assert not finished(root, "train")
    assert not list(root.rglob("*.safetensors"))


def test_a_run_that_is_stopped_leaves_no_checkpoint_of_images_that_changed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    folder = Store(root).folder(document("train", config(images)))

    def stop(*arguments: Any, **settings: Any) -> None:
        (folder.path / "checkpoints").mkdir()
        (folder.path / "checkpoints" / "step-1.pt").touch()
        write(images / "a" / "00.png", 99)
        raise Preempted("SIGTERM", 1, 2)

    monkeypatch.setattr(stages, "train_classifier", stop)
    with pytest.raises(UserError, match="changed while train was computed"):
        stages.train(config(images), Store(root))
    assert not list(root.rglob("step-1.pt"))


def test_a_run_that_is_stopped_keeps_its_checkpoint_where_nothing_changed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(run: Any, *arguments: Any, **settings: Any) -> None:
        (run.folder / "checkpoints").mkdir()
        (run.folder / "checkpoints" / "step-1.pt").touch()
        raise Preempted("SIGTERM", 1, 2)

    monkeypatch.setattr(stages, "train_classifier", stop)
    with pytest.raises(Preempted):
        stages.train(config(images), Store(tmp_path / "store"))
    assert list((tmp_path / "store").rglob("step-1.pt"))


def test_a_damaged_image_is_met_before_anything_is_trained(images: Path, tmp_path: Path) -> None:
    (images / "b" / "59.png").write_bytes(b"")
    root = tmp_path / "store"
    with pytest.raises(UserError, match=r"b/59\.png cannot be read as an image \(the file is empty\)"):
        stages.train(config(images, "dataset.max_memory_mb=0"), Store(root))
    assert not root.exists()


def test_a_cell_whose_images_changed_since_the_sweep_was_submitted_says_what_changed(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "store"
    settings = [line for line in SETTINGS if not line.startswith(("dataset=", "model=", "attack"))]
    axes = {"dataset": ["image_folder"], "model": ["resnet8"], "attack": ["identity"]}
    path = write_sweep(tmp_path, axes=axes, cases=None, until="train", set=[*settings, f"dataset.folder={images}"])
    with looked_at_once(root):
        plan = make_plan(path)
        remember_looks(root)
    cells = [Job(stage=cell.stage, id=cell.id, configuration=plan.configuration(cell)) for cell in plan.cells]
    write(images / "a" / "00.png", 99)
    for _ in range(2):  # the first to find out does not keep the others from it
        assert run_cell(root, cells[0], Worker(token="t", job="7_1")) == "failed"
        error = (latest_attempt(root, "train", cells[0].id) or {})["error"]
        assert "have changed since the sweep was submitted: 1 file with other content (a/00.png)" in error
    assert not finished(root, "train")
    write(images / "a" / "00.png", 0)
    assert run_cell(root, cells[0], Worker(token="t", job="7_2")) == "done"


def test_a_finished_victim_is_found_without_reading_the_images_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from rnet.data.files import digest

    monkeypatch.setattr(digest, "_SETTLED_NS", -(10**18))
    store = Store(tmp_path / "store")
    victim = stages.train(config(images), store)
    monkeypatch.setattr(digest, "_read_before", {})
    monkeypatch.setattr(digest, "_read", lambda *arguments: pytest.fail("a file is read"))
    with caplog.at_level(logging.WARNING):
        assert stages.train(config(images), store).id == victim.id
    assert not caplog.messages


def test_images_on_demand_are_looked_at_once_for_a_store(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rnet.data import loading
    from rnet.data.folder import FolderSource

    store, on_demand = Store(tmp_path / "store"), config(images, "dataset.max_memory_mb=0")
    stages.train(on_demand, store)
    monkeypatch.setattr(loading, "_latest", {})
    monkeypatch.setattr(FolderSource, "inspect", lambda *arguments, **settings: pytest.fail("looked at again"))
    stages.attack(on_demand, store)
