"""What an imported victim is taken for: the user's word first, then the file's and its publisher's, then a guess."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from rnet.config.documents import content_id
from rnet.config.run import RunConfig, load_config
from rnet.errors import UserError
from rnet.models.config import ModelConfig
from rnet.models.origin import Origin, as_imported, model_origin, origin_of
from rnet.models.stem import shrink_stem
from rnet.stages import stages
from rnet.stages.graph import document
from rnet.stages.store import Store
from tests.tiny_runs import tiny

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5] * 3, [0.5] * 3)


def state_of(name: str, *, small: bool = False) -> dict[str, Tensor]:
    net = (
        timm.create_model(name[5:], num_classes=5)
        if name.startswith("timm/")
        else models.get_model(name, num_classes=5)
    )
    if small:
        assert shrink_stem(net)
    return net.state_dict()


def origin(path: Path, name: str, *, image_size: int = 32, **settings: Any) -> Origin:
    return model_origin(ModelConfig(name=name, weights=str(path), **settings), image_size=image_size)


@pytest.mark.parametrize(
    ("name", "small", "said", "stem", "how"),
    [
        ("resnet18", False, "auto", "imagenet", "read"),
        ("resnet18", True, "auto", "small", "read"),
        ("timm/resnet18", False, "auto", "imagenet", "read"),
        ("timm/resnet18", True, "auto", "small", "read"),
        ("densenet121", True, "auto", "small", "read"),
        ("mobilenet_v2", False, "auto", "imagenet", "assumed"),
        ("mobilenet_v2", True, "auto", "imagenet", "assumed"),
        ("mobilenet_v2", True, "small", "small", "given"),
        ("efficientnet_b0", False, "auto", "imagenet", "assumed"),
        ("timm/efficientnet_lite0", False, "auto", "imagenet", "assumed"),
        ("timm/mobilenetv3_small_050", False, "auto", "imagenet", "assumed"),
        ("resnet18", False, "small", "small", "given"),
    ],
)
def test_an_imported_stem_is_the_published_one_unless_the_shapes_fit_the_small_one_alone(
    name: str, small: bool, said: str, stem: str, how: str, tmp_path: Path
) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in state_of(name, small=small).items()}}, tmp_path / "w.pt")
    found = origin(tmp_path / "w.pt", name, stem=said)
    assert (found.model.stem, found.facts["stem"]["how"]) == (stem, how)
    assert found.fits_both_stems == name.split("/")[-1].startswith(("mobilenet", "efficientnet"))
    if how == "assumed":
        assert "model.stem=small" in found.facts["stem"]["from"]


def test_an_architecture_with_one_stem_keeps_its_setting(tmp_path: Path) -> None:
    torch.save(state_of("squeezenet1_1"), tmp_path / "w.pt")
    assert origin(tmp_path / "w.pt", "squeezenet1_1").model.stem == "auto"


def hub_folder(folder: Path, **about: Any) -> Path:
    save_file(state_of("timm/resnet18"), folder / "model.safetensors")
    config = {
        "mean": HALF[0],
        "std": HALF[1],
        "input_size": [3, 224, 224],
        "crop_pct": 0.875,
        "interpolation": "bicubic",
    }
    said = {"architecture": "resnet18", "pretrained_cfg": {**config, **about}, "label_names": ["a", "b", "c", "d", "e"]}
    (folder / "config.json").write_text(json.dumps(said))
    return folder / "model.safetensors"


def in_checkpoint(folder: Path) -> Path:
    said = {"mean": tuple(HALF[0]), "std": tuple(HALF[1]), "input_size": (3, 288, 288), "crop_pct": 0.95}
    torch.save({"state_dict": state_of("timm/resnet18"), "pretrained_cfg": said}, folder / "w.pth")
    return folder / "w.pth"


def named(folder: Path, name: str, file: str) -> Path:
    torch.save(state_of(name), folder / file)
    return folder / file


SOURCES: dict[str, tuple[Any, str, tuple[list[float], list[float]], int | None, str]] = {
    "timm's config.json": (hub_folder, "timm/resnet18", HALF, 256, "config.json"),
    "a checkpoint's pretrained_cfg": (in_checkpoint, "timm/resnet18", HALF, 235, "the checkpoint's pretrained_cfg"),
    "torchvision's file name": (
        lambda f: named(f, "resnet18", "resnet18-f37072fd.pth"), "resnet18", IMAGENET, 256,
        "torchvision's ResNet18_Weights.IMAGENET1K_V1, by the name of the file",
    ),
    "another of its file names": (
        lambda f: named(f, "resnet50", "resnet50-11ad3fa6.pth"), "resnet50", IMAGENET, 232, "IMAGENET1K_V2",
    ),
    "a tag of timm": (
        lambda f: named(f, "timm/resnet18", "w.pth"), "timm/resnet18.a1_in1k", IMAGENET, 235, "timm's resnet18.a1_in1k",
    ),
    "timm's file name": (
        lambda f: named(f, "timm/resnet18", "resnet18_a1_0-d63eafa0.pth"), "timm/resnet18", IMAGENET, 235,
        "timm's resnet18.a1_in1k, by the name of the file",
    ),
    "the file name of a package": (
        lambda f: named(f, "timm/tf_efficientnet_lite0", "efficientnet-lite0-57934424.pth"),
        "timm/tf_efficientnet_lite0", ([127 / 255] * 3, [128 / 255] * 3), 256, "the package of efficientnet-lite0-5793",
    ),
    "nothing": (lambda f: named(f, "resnet18", "resnet18-other.pth"), "resnet18", ([], []), None, "the data set's own"),
    "another architecture's file name": (
        lambda f: named(f, "resnet34", "resnet18-f37072fd.pth"), "resnet34", ([], []), None, "the data set's own",
    ),
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_published_is_read_where_the_user_has_not_set_it(source: str, tmp_path: Path) -> None:
    make, name, (mean, std), resize, where = SOURCES[source]
    found = origin(make(tmp_path), name, image_size=224)
    assert (found.model.mean, found.model.std) == (mean, std)
    assert found.facts["mean"]["how"] == ("read" if mean else "assumed")
    assert where in found.facts["mean"]["from"]
    resized = [side for one in found.published if (side := one.resize_for(224))]
    assert resized == ([] if resize is None else [resize])


@pytest.mark.parametrize(("image_size", "resize"), [(224, 256), (32, 36), (112, 128), (0, None)])
def test_the_published_crop_keeps_its_share_of_images_of_another_size(
    image_size: int, resize: int | None, tmp_path: Path
) -> None:
    (said,) = origin(hub_folder(tmp_path), "timm/resnet18").published
    assert said.resize_for(image_size) == resize


@pytest.mark.parametrize(
    ("given", "expected", "how"),
    [
        ([], (256, "bicubic"), ("read", "read")),
        (["dataset.image_size=112"], (128, "bicubic"), ("read", "read")),
        (["dataset.resize=300"], (300, "bicubic"), ("given", "read")),
        (["dataset.interpolation=bilinear"], (256, "bilinear"), ("read", "given")),
        (["dataset.resize=256", "dataset.interpolation=bicubic"], (256, "bicubic"), ("given", "given")),
    ],
)
def test_the_images_are_resized_as_published_unless_the_user_says_otherwise(
    given: list[str], expected: tuple[int, str], how: tuple[str, str], tmp_path: Path
) -> None:
    lines = ["dataset=digits", "dataset.image_size=224", "model=timm", "model.name=resnet18"]
    config = load_config([*lines, f"model.weights={hub_folder(tmp_path)}", *given])
    dataset, facts = as_imported(config).dataset, origin_of(config).facts
    assert (dataset.resize, dataset.interpolation) == expected
    assert (facts["resize"]["how"], facts["interpolation"]["how"]) == how
    hashed = document("train", config)["dataset"]
    assert (hashed["resize"], hashed["interpolation"]) == expected


def test_what_the_user_sets_wins_and_the_contradiction_is_said(tmp_path: Path) -> None:
    found = origin(hub_folder(tmp_path), "timm/resnet18", mean=IMAGENET[0], std=IMAGENET[1])
    assert (found.model.mean, found.facts["mean"]["how"]) == (IMAGENET[0], "given")
    assert any("model.mean" in note and "config.json says [0.5, 0.5, 0.5]" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "file", "given", "transformed"),
    [
        ("googlenet", "googlenet-1378be20.pth", [], ["transform_input=true"]),
        ("inception_v3", "inception_v3_google-0cc3c7bd.pth", [], ["transform_input=true"]),
        ("googlenet", "googlenet-1378be20.pth", ["transform_input=false"], ["transform_input=false"]),
        ("googlenet", "other.pth", [], []),
    ],
)
def test_published_inception_nets_transform_their_input(
    name: str, file: str, given: list[str], transformed: list[str], tmp_path: Path
) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / file)
    assert origin(tmp_path / file, name, options=given).model.options == transformed


def test_a_config_of_another_architecture_is_said(tmp_path: Path) -> None:
    found = origin(hub_folder(tmp_path), "timm/resnet34")
    assert any("config.json says resnet18" in note for note in found.notes)


def test_means_of_colours_are_not_taken_for_a_gray_network(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18", num_classes=5, in_chans=1).state_dict(), tmp_path / "w.pth")
    found = origin(tmp_path / "w.pth", "timm/resnet18.a1_in1k")
    assert found.model.mean == []
    assert any("takes 1 channels" in note for note in found.notes)


def test_the_order_of_tensors_in_a_file_does_not_matter(tmp_path: Path) -> None:
    save_file(state_of("timm/mobilenetv3_small_050"), tmp_path / "w.safetensors")  # by name: a depthwise filter first
    found = origin(tmp_path / "w.safetensors", "timm/mobilenetv3_small_050.lamb_in1k")
    assert found.model.mean == IMAGENET[0]


@pytest.mark.parametrize(
    "said",
    [
        {"mean": "0.5", "std": [1.0]}, {"mean": [0.5], "std": [0.0]}, {"mean": [True], "std": [1.0]}, {"mean": [0.5]},
        {"mean": [float("nan")], "std": [1.0]}, {"crop_pct": 0, "input_size": [3, 224, 224]}, {"input_size": "big"},
    ],
)  # fmt: skip
def test_nonsense_about_a_file_says_nothing(said: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"state_dict": state_of("timm/resnet18"), "pretrained_cfg": said}, tmp_path / "w.pth")
    found = origin(tmp_path / "w.pth", "timm/resnet18")
    assert found.model.mean == []
    assert all(one.resize_for(224) is None for one in found.published)


def test_an_unknown_tag_is_refused_with_those_that_timm_knows(tmp_path: Path) -> None:
    torch.save(state_of("timm/resnet18"), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"resnet18\.mine.*a1_in1k"):
        origin(tmp_path / "w.pth", "timm/resnet18.mine")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RunConfig, Path]:
    """A victim of rnet's own, with a normalisation and cut layers that no other run would guess."""
    config = tiny("model.mean=[0.25]", "model.std=[0.75]", "model.cut_layers=[layer2]")
    store = Store(tmp_path_factory.mktemp("exported"))
    return store, config, stages.train(config, store).path / "model.safetensors"


def test_a_file_that_rnet_wrote_says_what_it_is(exported: tuple[Store, RunConfig, Path]) -> None:
    store, config, file = exported
    imported = tiny(f"model.weights={file}")
    found = origin_of(imported)
    assert (found.model.mean, found.model.std, found.model.cut_layers) == ([0.25], [0.75], ["layer2"])
    assert found.facts["mean"]["from"] == "the file's metadata (written by rnet)"
    victim = stages.train(imported, store)
    assert (victim.result() or {})["accuracy"] == (stages.train(config, store).result() or {})["accuracy"]
    assert (victim.path / "model.safetensors").read_bytes() == file.read_bytes()


def test_the_same_import_has_one_id_whoever_said_so(exported: tuple[Store, RunConfig, Path]) -> None:
    _, _, file = exported
    read, given, other = (
        tiny(f"model.weights={file}", *more)
        for more in (
            [],
            ["model.mean=[0.25]", "model.std=[0.75]", "model.cut_layers=[layer2]"],
            ["model.mean=[0.5]", "model.std=[0.75]"],
        )
    )
    ids = [content_id(document("verify", config)) for config in (read, given, other)]
    assert ids[0] == ids[1] != ids[2]


def test_what_is_imported_once_is_imported_so_again(exported: tuple[Store, RunConfig, Path]) -> None:
    _, _, file = exported
    config = tiny(f"model.weights={file}")
    resolved = as_imported(config)
    assert as_imported(resolved) == resolved
    assert origin_of(resolved).facts == origin_of(config).facts
    assert as_imported(replace(config, seed=5)).seed == 5
