"""Where the attacker's images come from: what ids, attacks and results make of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rnet.config.documents import content_id, run_from_dict, run_to_dict
from rnet.config.run import load_config
from rnet.data.batches import TrainingBatches
from rnet.data.loading import load_dataset
from rnet.data.substitute.loading import UNKNOWN, with_substitutes
from rnet.errors import UserError
from rnet.stages import stages
from rnet.stages.graph import document, hyperparameters, negative_configs
from rnet.stages.store import Store
from rnet.stages.substitutes import about_images, attackers_dataset
from tests.attacks.table import TABLE
from tests.tiny_runs import TINY_FINETUNE, tiny

FOLDER = ["substitute=image_folder", "substitute.substitute_pool=3"]
USERS = [name for name, lines in TABLE.items() if load_config(lines).attack.uses_substitutes and "cropped" not in name]


def write_images(folder: Path, count: int = 60, *, size: int = 12, seed: int = 0, mode: str = "RGB") -> Path:
    """Random images in two folders of classes."""
    draws = np.random.default_rng(seed)
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
    return folder


def with_folder(folder: Path, *overrides: str) -> Any:
    return tiny(*FOLDER, f"substitute.folder={folder}", *overrides)


def attack_id(config: Any) -> str:
    return content_id(document("attack", config))


def test_only_the_attack_stage_depends_on_substitutes_and_only_where_they_are_used(tmp_path: Path) -> None:
    folder, other = write_images(tmp_path / "one"), write_images(tmp_path / "two", seed=1)
    copy = write_images(tmp_path / "copy")
    ids = {
        name: attack_id(config)
        for name, config in {
            "default": tiny(*TINY_FINETUNE), "own": tiny("substitute=own", *TINY_FINETUNE),
            "one": with_folder(folder, *TINY_FINETUNE), "two": with_folder(other, *TINY_FINETUNE),
            "copy": with_folder(copy, *TINY_FINETUNE), "train": tiny("substitute=victim_train", *TINY_FINETUNE),
        }.items()
    }  # fmt: skip
    assert ids["default"] == ids["own"]
    assert ids["one"] == ids["copy"]
    assert len({*ids.values()}) == 4
    for stage in ("train", "fingerprint"):
        assert document(stage, with_folder(folder)) == document(stage, tiny())
    for name in (one for one, lines in TABLE.items() if not load_config(lines).attack.uses_substitutes):
        assert document("attack", with_folder(folder, *TABLE[name])) == document("attack", tiny(*TABLE[name])), name
    shown = hyperparameters(document("attack", with_folder(folder, *TINY_FINETUNE)))
    assert shown["substitute"] == "image_folder"


def test_negatives_do_not_depend_on_the_attackers_images(tmp_path: Path) -> None:
    run = with_folder(write_images(tmp_path), *TINY_FINETUNE, "negatives=1")
    assert [*map(attack_id, negative_configs(run))] == [*map(attack_id, negative_configs(tiny("negatives=1")))]


def test_another_set_gives_all_but_its_test_images_at_the_victims_size_and_in_gray(tmp_path: Path) -> None:
    config = with_folder(write_images(tmp_path), *TINY_FINETUNE)
    dataset = load_dataset(config.dataset)
    theirs = attackers_dataset(config, dataset)
    assert len(theirs.substitute) == 48  # a fifth of 60 is for tests
    assert theirs.substitute.pixels().shape == (48, 1, 8, 8)
    assert theirs.train is dataset.train
    pools = [
        attackers_dataset(with_folder(tmp_path, *TINY_FINETUNE, f"substitute.substitute_pool={pool}"), dataset)
        for pool in (3, 30)
    ]
    assert torch.equal(pools[0].substitute.positions_N, pools[1].substitute.positions_N)


def test_gray_images_have_their_channel_repeated_for_a_victim_of_colours(tmp_path: Path) -> None:
    colours = load_dataset(load_config(
        ["dataset=image_folder", f"dataset.folder={write_images(tmp_path, 90)}", "dataset.image_size=8",
         "dataset.substitute_pool=9"]
    ).dataset)  # fmt: skip
    digits = load_config(["substitute=digits"]).substitute
    part = with_substitutes(colours, digits).substitute
    x_BCHW = part.pixels(torch.arange(3))
    assert x_BCHW.shape == (3, 3, 8, 8)
    assert torch.equal(x_BCHW[:, 0], x_BCHW[:, 2])
    assert part.to("cpu").pixels(torch.arange(3)).equal(x_BCHW)


@pytest.mark.parametrize("case", USERS)
def test_every_attack_with_a_substitute_set_takes_the_one_that_is_set(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_folder(write_images(tmp_path / "images", 80), *TABLE[case])
    seen = []
    original = TrainingBatches.__call__

    def record(self: TrainingBatches, step: int) -> Any:
        batch = original(self, step)
        seen.append(batch.x_BCHW)
        return batch

    store = Store(tmp_path / "store")
    stages.train(config, store)
    monkeypatch.setattr(TrainingBatches, "__call__", record)
    found = stages.attack(config, store).result() or {}
    equal = {"equal_to_training": 0, "equal_to_test": 0}
    assert found["substitute"] == {"from": "image_folder", "images": 64, **equal, "of_the_victim": False}
    there = attackers_dataset(config, load_dataset(config.dataset)).substitute
    theirs = {image.numpy().tobytes() for image in there.pixels()}
    assert {image.numpy().tobytes() for x_BCHW in seen for image in x_BCHW} <= theirs


def test_the_victims_own_training_images_are_taken_without_labels_and_the_result_says_so(tmp_path: Path) -> None:
    config = tiny("substitute=victim_train", *TINY_FINETUNE, "attack.substitute_size=150")
    theirs = attackers_dataset(config, load_dataset(config.dataset))
    assert torch.equal(theirs.substitute.positions_N, theirs.train.positions_N)
    assert set(theirs.substitute.labels_N.tolist()) == {UNKNOWN}
    found = stages.attack(config, Store(tmp_path)).result() or {}
    assert found["substitute"] == {"from": "victim_train", "images": 200, "of_the_victim": True}
    assert found["cost"]["substitute_samples"] == 150
    assert found["cost"]["training_samples"] == 0


def test_substitutes_that_the_victim_knows_are_counted() -> None:
    config = tiny("substitute=digits", "substitute.split_seed=1", "attack=finetune")
    said: list[str] = []
    about = about_images(config, attackers_dataset(config, load_dataset(config.dataset)), said.append)["substitute"]
    assert about["images"] == 1437
    assert 150 < about["equal_to_training"] < 200
    assert 0 < about["equal_to_test"] < 60
    assert str(about["equal_to_test"]) in said[-1]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["substitute=image_folder"], ["substitute.folder"]),
        (["substitute=image_folder", "substitute.folder=/nowhere"], ["substitute.folder", "/nowhere"]),
        (["substitute=digits", "attack.substitute_size=1438"], ["1438", "1,437", "substitute=digits"]),
        (["substitute=victim_train", "attack.substitute_size=201"], ["201", "200", "substitute=victim_train"]),
        (["substitute=digits", "substitute.split_seed=a"], ["substitute.split_seed"]),
        (["substitute=digits", "substitute.image_size=8"], ["substitute.image_size=8", "take it out"]),
        (["substitute=digits", "substitute.resize=4"], ["substitute.resize=4"]),
        (["substitute=digits", "substitute.train_size=0"], ["substitute.train_size=0", "at least 1"]),
        (["substitute=digit"], ["substitute", "'digit'", "digits"]),
        (["substitute=own", "substitute.folder=x"], ["substitute.folder"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_about_substitutes(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        stages.check("attack", tiny(*TINY_FINETUNE, *overrides), Store(Path("/nonexistent")))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert "dataset." not in str(caught.value).replace("dataset.image_size", "").replace("webdataset.", "")


def test_an_attack_that_uses_no_substitutes_says_that_they_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    stages.check_attack(tiny("attack=identity", "substitute=victim_train"))
    assert "substitute=victim_train has no effect: attack=identity" in caplog.text


def test_substitute_files_that_change_meanwhile_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_images(tmp_path / "images")
    config, store = with_folder(images, *TINY_FINETUNE), Store(tmp_path / "store")
    stages.train(config, store)
    measure = stages._fidelity

    def change(*given: Any) -> Any:
        write_images(images, 1, seed=9)
        return measure(*given)

    monkeypatch.setattr(stages, "_fidelity", change)
    with pytest.raises(UserError, match=r"changed while attack was computed.*of substitute=image_folder "):
        stages.attack(config, store)
    assert not list((tmp_path / "store" / "attack").glob("*/result.json"))


def test_a_configuration_with_substitutes_survives_as_plain_data(tmp_path: Path) -> None:
    config = with_folder(tmp_path, "substitute.resize=9")
    assert run_from_dict(json.loads(json.dumps(run_to_dict(config)))) == config


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["dataset=celeba", "substitute=lfw"], {"learning_rate": 3e-3, "gamma": 0.8, "rho": 0.1}),
        (["dataset=lfw", "substitute=lfw"], {"learning_rate": 3e-3, "gamma": 0.6, "rho": 0.02}),
        (["dataset=celeba"], {"learning_rate": 1e-2}),
        (["dataset=celeba", "substitute=lfw", "attack=removalnet_latent"], {"learning_rate": 3e-3, "alpha": 0.0}),
        (["dataset=celeba", "substitute=lfw", "attack.learning_rate=1"], {"learning_rate": 1.0}),
        (["dataset=celeba", "substitute=lfw", "attack_preset=removalnet_gtsrb"], {"temperature": 10.0, "alpha": 0.2}),
    ],
)
def test_the_published_settings_of_a_pair_of_data_sets_are_taken(
    overrides: list[str], expected: dict[str, float]
) -> None:
    attack = load_config(["attack=removalnet", *overrides]).attack
    assert {key: getattr(attack, key) for key in expected} == expected
