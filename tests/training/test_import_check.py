"""The check at import, on real digits: wrong settings are found, what cures them is named and does, right ones pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import MobileNetV2

from rnet.api import dataset_of
from rnet.config.run import load_config
from rnet.data.config import DigitsConfig
from rnet.data.images import Dataset
from rnet.data.loading import load_dataset_once
from rnet.models.classifier import Classifier
from rnet.models.resnet import SmallResNet
from rnet.stages import stages
from rnet.stages.store import Store
from rnet.training.alternatives import clearly_better
from rnet.training.fidelity import predict
from rnet.training.import_check import check_import

PERMUTED = torch.tensor([3, 1, 0, 2, 5, 4, 7, 8, 9, 6])
RESNET = ["model=resnet8", "model.width=8", "dataset.image_size=8"]
BLOCKS = [[1, 16, 1, 1], [3, 24, 1, 2], [3, 32, 1, 2]]
MOBILE = [
    "model=mobilenet_v2", f"model.options=['inverted_residual_setting={BLOCKS}']", "dataset.image_size=16",
]  # fmt: skip
NONE = ["model.mean=[0]", "model.std=[1]"]
SMALL = ["model.stem=small"]


def normalised(x_NCHW: Tensor, mean: float, std: float) -> Tensor:
    return (x_NCHW - mean) / std


def trained(net: nn.Module, x_NCHW: Tensor, labels_N: Tensor, epochs: int, seed: int = 0) -> dict[str, Tensor]:
    """Trained by plain torch, as people do elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(epochs):
        for indices in torch.randperm(len(x_NCHW), generator=generator).split(64):
            if len(indices) > 1:
                optimizer.zero_grad()
                F.cross_entropy(net.train()(x_NCHW[indices]), labels_N[indices]).backward()
                optimizer.step()
    return {name: tensor.detach().clone().contiguous() for name, tensor in net.state_dict().items()}


def mobile(*, small: bool) -> nn.Module:
    net = MobileNetV2(num_classes=10, inverted_residual_setting=BLOCKS)
    net.features[0][0] = nn.Conv2d(1, 32, 3, stride=1 if small else 2, padding=1, bias=False)
    return net


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Networks trained on digits elsewhere: with several normalisations, other numbers of classes, and a small stem."""
    folder = tmp_path_factory.mktemp("elsewhere")
    small, large = (load_dataset_once(DigitsConfig(image_size=size)).train for size in (8, 16))
    x, y = small.pixels(), small.labels_N
    torch.manual_seed(0)
    states = {
        "none": trained(SmallResNet(10, 1, 8), x, y, 5),
        "half": trained(SmallResNet(10, 1, 8), normalised(x, 0.5, 0.5), y, 5),
        "mnist": trained(SmallResNet(10, 1, 8), normalised(x, 0.1307, 0.3081), y, 5),
        "0..255": trained(SmallResNet(10, 1, 8), x * 255, y, 5),
        "permuted": trained(SmallResNet(10, 1, 8), x, PERMUTED[y], 5),
        "untrained": SmallResNet(10, 1, 8).state_dict(),
    }
    states["small stem"] = trained(mobile(small=True), large.pixels(), y, 6)
    for name, state in states.items():
        save_file(state, folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in states}


def imported(file: Path, tmp_path: Path, *overrides: str) -> dict[str, Any]:
    """The result of an import on digits."""
    config = load_config(["dataset=digits", "engine.device=cpu", f"model.weights={file}", *overrides])
    return stages.train(config, Store(tmp_path)).result() or {}


WRONG = {
    "none": (RESNET, "set model.mean=[0] model.std=[1] (none)", NONE),
    "half": (RESNET, "model.mean=[0.5] model.std=[0.5]", ["model.mean=[0.5]", "model.std=[0.5]"]),
    "0..255": (RESNET, "(pixels of 0..255)", ["model.mean=[0]", "model.std=[0.00392157]"]),
    "small stem": ([*MOBILE, *NONE], "another stem; if the network was trained so: set model.stem=small", SMALL),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_found_and_the_one_named_cures_it(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    overrides, said, cure = WRONG[name]
    wrong = imported(files[name], tmp_path, *overrides)
    assert any(said in warning for warning in wrong["check"]["warnings"]), wrong["check"]["warnings"]
    right = imported(files[name], tmp_path, *overrides, *cure)
    assert right["accuracy"] > 0.85
    assert right["accuracy"] == pytest.approx(wrong["check"]["would_be"]["accuracy"], abs=0.05)
    assert right["check"]["warnings"] == []


RIGHT = {
    "none": [*RESNET, *NONE],
    "half": [*RESNET, "model.mean=[0.5]", "model.std=[0.5]"],
    "mnist": [*RESNET, "model.mean=[0.1307]", "model.std=[0.3081]"],
    "0..255": [*RESNET, "model.mean=[0]", "model.std=[0.00392157]"],
    "small stem": [*MOBILE, *NONE, *SMALL],
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_import_is_warned_of_nothing(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    result = imported(files[name], tmp_path, *RIGHT[name])
    assert result["check"]["warnings"] == []
    assert result["accuracy"] > 0.85
    assert "training_samples" not in result
    assert result["check"]["reference"]["accuracy"] > 0.8


@pytest.mark.parametrize("normalisation", [NONE, []])
def test_a_permutation_of_classes_is_found_and_shown(
    normalisation: list[str], files: dict[str, Path], tmp_path: Path
) -> None:
    check = imported(files["permuted"], tmp_path, *RESNET, *normalisation)["check"]
    (warning,) = check["warnings"]
    assert "set dataset.class_map to a JSON file with the classes' numbers" in warning
    assert '{"0": 3, "2": 0, "3": 2' in warning
    assert list(check["would_be"]["class_map"].values()) == PERMUTED.tolist()
    assert ("order of classes" in check["would_be"]["changes"], len(check["would_be"]["changes"])) == (
        True,
        1 if normalisation else 2,
    )


def test_a_network_that_is_not_trained_is_doubted(files: dict[str, Path], tmp_path: Path) -> None:
    check = imported(files["untrained"], tmp_path, *RESNET)["check"]
    assert any("is far below the 9" in warning for warning in check["warnings"])


def test_a_class_that_is_never_given_is_said_and_the_uneven_recall_shown(
    files: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    state = load_file(files["none"])
    state["fc.bias"][4] = -1000.0
    save_file(state, tmp_path / "w.safetensors")
    check = imported(tmp_path / "w.safetensors", tmp_path, *RESNET, *NONE)["check"]
    assert "1 of 10 classes are never predicted: 4" in check["notes"]
    (row,) = check["per_class"]
    assert (row["class"], row["recall"]) == ("4", 0.0)
    assert row["images"] > 20


def test_a_network_that_gives_one_class_is_warned_of(files: dict[str, Path], tmp_path: Path) -> None:
    save_file(
        {k: torch.zeros_like(v) for k, v in SmallResNet(10, 1, 8).state_dict().items()}, tmp_path / "w.safetensors"
    )
    result = imported(tmp_path / "w.safetensors", tmp_path, *RESNET)
    assert any("every test image class 0" in warning for warning in result["check"]["warnings"])
    assert any("10 of 10 weights are zero throughout: conv1.weight" in note for note in result["import"]["notes"])


class Colours(nn.Module):
    """Says which channel is the brightest."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.mean(dim=(2, 3))


def coloured() -> Dataset:
    """Images of which a channel is a little brighter, and which one is their class."""
    labels_N = torch.arange(600) % 3
    x_NCHW = torch.rand(600, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.6
    x_NCHW[torch.arange(600), labels_N] += 0.3
    return dataset_of(x_NCHW, labels_N, substitute_pool=10)


def test_channels_from_blue_to_red_are_found() -> None:
    dataset = coloured()
    right, swapped = Classifier(Colours(), [0.3] * 3, [0.2] * 3), Classifier(Swapped(), [0.3] * 3, [0.2] * 3)
    for model, count in ((right, 0), (swapped, 1)):
        found = check_import(model, dataset, predict(model, dataset.test), other_stem=None, normalisation_known=True)
        assert len(found["warnings"]) == count, found["warnings"]
        assert found.get("would_be", {"changes": ["order of channels"]})["changes"] == ["order of channels"]


class Swapped(Colours):
    """The same for images whose channels come from blue to red."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW.flip(1))


@pytest.mark.parametrize(
    ("won", "lost", "images", "expected"),
    [(30, 0, 100, True), (9, 0, 20, False), (30, 20, 100, False), (60, 10, 1000, True), (20, 0, 1000, False)],
)
def test_a_gain_counts_where_it_is_large_and_beyond_chance(won: int, lost: int, images: int, expected: bool) -> None:
    right_N, than_N = torch.ones(images, dtype=torch.bool), torch.ones(images, dtype=torch.bool)
    than_N[:won] = False
    right_N[won : won + lost] = False
    assert clearly_better(right_N, than_N, 0.03) is expected
