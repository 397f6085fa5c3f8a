"""What classes are called: given, published, or the data set's; checked against it; kept with the weights and shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from rnet.config.run import RunConfig, load_config
from rnet.errors import UserError
from rnet.models.class_names import imagenet_names, imagenet_wnids, other_number, plain_names, shared
from rnet.models.config import ModelConfig
from rnet.models.origin import called_classes
from rnet.models.published import class_names_in
from rnet.report.run_page import report_of_run
from rnet.stages import stages
from rnet.stages.graph import document
from rnet.stages.store import Store
from tests.data.miniatures import image
from tests.tiny_runs import TINY_FINETUNE, tiny

DIGITS = ["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_imagenet_has_a_thousand_names_in_the_order_of_its_wnids() -> None:
    names, wnids = imagenet_names(), imagenet_wnids()
    assert (len(set(names)), len(set(wnids))) == (1000, 1000)
    assert list(wnids) == sorted(wnids)
    known = {"n01440764": "tench", "n02123045": "tabby", "n04487081": "trolleybus", "n15075141": "toilet tissue"}
    assert {wnid: plain_names([wnid])[0] for wnid in known} == known
    assert plain_names(["n00000000", "n1", "owl"]) == ["n00000000", "n1", "owl"]


@pytest.mark.parametrize(
    ("names", "others", "moved", "alike"),
    [
        (["a", "b", "c"], ["a", "b", "c"], None, 3),
        (["a", "b", "c"], ["a", "c", "b"], ("b", 1, 2), 1),
        (["a", "x", "b"], ["a", "b", "y"], ("b", 2, 1), 1),
        (["a", "b"], ["x", "y"], None, 0),
        (["a", "a", "b"], ["b", "a", "a"], ("b", 2, 0), 1),
        (["tench", "goldfish"], ["n01440764", "n01443537"], None, 2),
        (["goldfish", "tench"], ["n01440764", "n01443537"], ("goldfish", 0, 1), 0),
        (["a", "b"], [], None, 0),
    ],
)
def test_names_are_compared_by_their_numbers(
    names: list[str], others: list[str], moved: tuple[str, int, int] | None, alike: int
) -> None:
    assert other_number(names, others) == moved
    assert shared(names, others) == alike


def squeezenet() -> nn.Module:
    return models.squeezenet1_1()


def mobilenet() -> nn.Module:
    return timm.create_model("mobilenetv3_small_050")


@pytest.mark.parametrize(
    ("make", "name", "file", "own", "known"),
    [
        (squeezenet, "squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", 0, True),
        (squeezenet, "squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", 2, True),
        (squeezenet, "squeezenet1_1", "mine.pth", 2, False),
        (mobilenet, "timm/mobilenetv3_small_050.lamb_in1k", "mine.pth", 0, True),
        (mobilenet, "timm/mobilenetv3_small_050", "mobilenetv3_small_050_lambc-4b7bbe87.pth", 0, True),
        (mobilenet, "timm/mobilenetv3_small_050", "mine.pth", 0, False),
    ],
)
def test_the_names_of_published_imagenet_files_are_known(
    make: Callable[[], nn.Module], name: str, file: str, own: int, known: bool, tmp_path: Path
) -> None:
    """own: how many classes the file itself names, which are not all."""
    said = {"pretrained_cfg": {"label_names": [f"class {number}" for number in range(own)]}} if own else {}
    torch.save({"state_dict": make().state_dict(), **said}, tmp_path / file)
    model, ours = ModelConfig(name=name, weights=str(tmp_path / file)), ["ours"] * 1000
    names, how, _ = called_classes(model, 1000, ours)
    assert (names, how) == ((list(imagenet_names()), "read") if known else (ours, "assumed"))
    assert called_classes(model, 999, ours)[0] == []


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[str]]:
    """SqueezeNet with random weights under its published name, and 12 images of two wnids of a thousand."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    torch.save(squeezenet().state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    for number in range(12):
        image(folder / "images" / imagenet_wnids()[400 * (number % 2)] / f"{number}.png", number, width=64, height=64)
    (folder / "wnids.txt").write_text("\n".join(imagenet_wnids()))
    return Store(folder / "store"), [
        "dataset=image_folder", f"dataset.folder={folder / 'images'}", f"dataset.class_map={folder / 'wnids.txt'}",
        "dataset.image_size=64", "dataset.substitute_pool=4", "dataset.test_size=4", "engine.device=cpu",
        "model=torchvision", "model.name=squeezenet1_1", f"model.weights={folder / 'squeezenet1_1-b8a52dc0.pth'}",
    ]  # fmt: skip


def test_a_published_imagenet_file_is_imported_with_its_names(published: tuple[Store, list[str]]) -> None:
    store, lines = published
    victim = stages.train(load_config(lines), store)
    about = (victim.result() or {})["import"]
    assert about["class names"]["value"].startswith("1000: tench, goldfish, ")
    assert about["class names"]["how"] == "read"
    assert "SqueezeNet1_1_Weights" in about["class names"]["from"]
    assert not [note for note in about["notes"] if note.startswith("class")]
    assert class_names_in(victim.path / "model.safetensors") == list(imagenet_names())
    (classes,) = [one for one in report_of_run(store.root, victim.label).tables if one.name == "classes"]
    assert classes.lines[1] == {"class": 1, "name": "goldfish"}


def test_another_order_of_imagenets_classes_is_noted(published: tuple[Store, list[str]], tmp_path: Path) -> None:
    store, lines = published
    moved = [imagenet_wnids()[-1], *imagenet_wnids()[:-1]]
    (tmp_path / "moved.json").write_text(json.dumps(moved))
    config = load_config([*lines, f"dataset.class_map={tmp_path / 'moved.json'}"])
    (note,) = [
        one for one in (stages.train(config, store).result() or {})["import"]["notes"] if one.startswith("class order")
    ]
    assert "class 0 is 'n15075141' here, and 'tench' in torchvision's" in note


def given(names: Any, folder: Path, *more: str) -> RunConfig:
    (folder / "names.json").write_text(json.dumps(names))
    return tiny(f"model.classes={folder / 'names.json'}", *more)


def test_given_names_go_with_the_weights_of_victim_and_suspect(tmp_path: Path) -> None:
    config, store = given(DIGITS, tmp_path, *TINY_FINETUNE), Store(tmp_path / "store")
    victim, suspect = stages.train(config, store), stages.attack(config, store)
    for folder in (victim, suspect):
        assert class_names_in(folder.path / "model.safetensors") == DIGITS
    again = tiny(f"model.weights={victim.path / 'model.safetensors'}")
    about = (stages.train(again, store).result() or {})["import"]
    assert about["class names"]["value"] == "10: nought, one, two, three, ..."
    assert any("with no name in both" in note for note in about["notes"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (DIGITS[:9], r"names 9 classes, but the model has 10: give the names"),
        ([*"1023456789"], r"calls class 0 1, which is class 1 of the dataset: set dataset.class_map"),
        ({"0": 0, "1": 2}, r"gives 1 the index 2"),
    ],
)
def test_given_names_that_contradict_the_data_set_are_refused(names: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        stages.check("train", given(names, tmp_path), Store(tmp_path / "store"))


def test_the_names_of_classes_are_part_of_the_id(tmp_path: Path) -> None:
    plain, named, again = (document("train", one) for one in (tiny(), *(given(DIGITS, tmp_path) for _ in range(2))))
    assert plain != named == again
