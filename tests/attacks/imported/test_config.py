"""The settings of a given suspect: what contradicts itself is refused, and what the id is made of."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as safetensors_bytes

from rnet.attacks.imported.config import ANSWERS, ImportConfig
from rnet.attacks.imported.origin import as_given
from rnet.config.documents import content_id
from rnet.errors import UserError
from rnet.models import answers
from rnet.models.config import ModelConfig
from rnet.stages.graph import document, hyperparameters
from tests.tiny_runs import tiny

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, r"takes attack\.weights=FILE or attack\.function=package\.module:function, and neither is set"),
    ({"weights": "a.pt", "function": "m:f"}, "and both are set"),
    ({"function": "ask"}, r"attack\.function='ask' must read package\.module:function"),
    ({"function": "m:f", "weights_key": "ema"}, r"attack\.weights_key has no effect without attack\.weights"),
    ({"function": "m:f", "model": ModelConfig()}, r"attack\.model has no effect without attack\.weights"),
    ({"weights": "a.pt", "answers": "labels"}, r"attack\.answers has no effect without attack\.function"),
    ({"function": "m:f", "answers": "label"}, r"attack\.answers='label' does not exist; did you mean labels"),
    ({"function": "m:f", "batch_size": 0}, r"attack\.batch_size=0 must be at least 1"),
    ({"weights": "a.pt", "num_classes": 1}, r"attack\.num_classes=1 must be at least 2"),
    ({"weights": "a.pt", "model": ModelConfig(weights="b.pt")}, r"attack\.model\.weights is written attack\.weights"),
    ({"weights": "a.pt", "model": ModelConfig(weights_key="k")}, r"the key: attack\.weights_key"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=range(len(REFUSED)))
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImportConfig(**settings).check()


def test_the_kinds_of_answers_are_those_that_can_be_read() -> None:
    assert {*ANSWERS} == {*answers.ANSWERS}


def weights(path: Path, value: float = 0.0) -> Path:
    """A file of weights, of whatever network."""
    path.write_bytes(safetensors_bytes({"fc.weight": torch.full((10, 4), value)}))
    return path


def suspect_id(*overrides: str) -> str:
    return content_id(document("attack", tiny("attack=import", *overrides)))


def test_a_file_is_named_by_its_content_and_not_by_its_path(tmp_path: Path) -> None:
    first, same, other = (tmp_path / name for name in ("a.pt", "b.safetensors", "c"))
    for path, value in ((first, 1.0), (same, 1.0), (other, 2.0)):
        weights(path, value)
    (tmp_path / "link").symlink_to(first)
    ids = {name: suspect_id(f"attack.weights={tmp_path / name}") for name in ("a.pt", "b.safetensors", "link", "c")}
    assert ids["a.pt"] == ids["b.safetensors"] == ids["link"] == suspect_id(f"attack.weights={os.path.relpath(first)}")
    assert ids["c"] != ids["a.pt"]


@pytest.mark.parametrize("kind", ["gone", "folder", "pipe", "~nobody-of-that-name", "zero\0byte", "", "name" * 200])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    path = str(tmp_path / kind) if kind in ("gone", "folder", "pipe") else kind
    config = dataclasses.replace(tiny(), attack=ImportConfig(weights=path))
    with pytest.raises(UserError, match=r"^attack\.weights='.*; name a file$"):
        document("attack", config)


@pytest.mark.parametrize(
    "setting",
    [
        "attack.model.width=6",
        "attack.model=resnet14",
        "attack.num_classes=6",
        "attack.weights_key=ema",
        "model.width=7",
    ],
)
def test_everything_that_makes_another_suspect_makes_another_id(setting: str, tmp_path: Path) -> None:
    weights(tmp_path / "w")
    given = f"attack.weights={tmp_path / 'w'}"
    assert suspect_id(given, setting) != suspect_id(given)


def test_how_many_images_are_asked_about_at_once_does_not_make_another_id(code: Path) -> None:
    write(code, "given_batches.py", "def ask(x): return [0] * len(x)")
    given = "attack.function=given_batches:ask"
    assert suspect_id(given, "attack.batch_size=7") == suspect_id(given)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    """A module, as a new process would find it."""
    (folder / name).write_text(text)
    sys.modules.pop(name.removesuffix(".py"), None)
    sys.path_importer_cache.clear()


def test_an_edited_function_has_another_id_also_under_a_decorator(code: Path) -> None:
    for number, decorator in enumerate(("", "@torch.no_grad()\n")):
        text = f"import torch\n{decorator}def ask(x): return x.flatten(1).mean(1).long()"
        ids = []
        for edit, content in enumerate((text, text, text + "  # edited\n")):
            name = f"given_{number}_{edit}"
            write(code, f"{name}.py", content)
            found = document("attack", tiny("attack=import", f"attack.function={name}:ask"))["attack"]
            assert found.pop("function") == f"{name}:ask"
            ids.append(found)
        assert ids[0] == ids[1] != ids[2]
        assert [*ids[0]] == ["name", "function_plugin_sha256"]


def test_a_function_with_a_version_is_named_by_that(code: Path) -> None:
    write(code, "given_version.py", "def ask(x): return [0] * len(x)\nask.version = '7'")
    found = document("attack", tiny("attack=import", "attack.function=given_version:ask"))["attack"]
    assert found == {"name": "import", "function": "given_version:ask", "function_plugin_version": "7"}


def test_an_edited_architecture_of_the_users_own_has_another_id(code: Path) -> None:
    weights(code / "w")
    found = []
    for name, text in (("given_net_a", ""), ("given_net_b", "# edited")):
        write(code, f"{name}.py", f"def net(num_classes, in_channels): ...{text}")
        given = ("attack=import", f"attack.weights={code / 'w'}", f"attack.model.name={name}:net")
        found.append(document("attack", tiny(*given))["attack"]["model_plugin_sha256"])
    assert found[0] != found[1]


def test_the_settings_of_the_suspects_architecture_are_shown_flat(tmp_path: Path) -> None:
    weights(tmp_path / "w")
    shown = hyperparameters(
        document("attack", tiny("attack=import", f"attack.weights={tmp_path / 'w'}", "attack.model=resnet14"))
    )
    assert (shown["attack"], shown["attack.model"], shown["attack.model.width"]) == ("import", "resnet14", 16)
    assert not any(isinstance(value, dict) for value in shown.values())


def test_a_file_that_does_not_say_its_stem_is_taken_to_have_the_victims(tmp_path: Path) -> None:
    """The stem of MobileNet leaves no trace in shapes: small for a victim trained on small images."""
    file = weights(tmp_path / "w")
    victim = ("model=torchvision", "model.name=mobilenet_v2")
    for model, stem in ((victim, "auto"), ((*victim, "model.stem=imagenet"), "imagenet")):
        taken = as_given(tiny("attack=import", f"attack.weights={file}", "model.width=16", *model))
        assert taken.attack.model.stem == stem
        assert taken.attack.model.weights is None
    other = as_given(
        tiny("attack=import", f"attack.weights={file}", "model.width=16", *victim, "attack.model.stem=small")
    )
    assert other.attack.model.stem == "small"
