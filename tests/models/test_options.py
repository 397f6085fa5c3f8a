"""model.options, model.mean and model.std: what reaches the network, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.models.options import parse_options
from rnet.models.zoo import build_model

HERE = "tests.models.test_options"


def build(config: ModelConfig, *, channels: int = 3, image_size: int = 32) -> Classifier:
    return build_model(
        config, num_classes=5, channels=channels, image_size=image_size, mean_C=(0.5,) * channels,
        std_C=(0.25,) * channels, seed=0,
    )  # fmt: skip


def net(num_classes: int, in_channels: int, leak: float = 0.0, words: str = "") -> nn.Module:
    act = nn.LeakyReLU(leak) if leak else nn.ReLU()
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), act, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("a=true", True), ("a=False", False), ("a=null", None), ("a=", None), ("a=3", 3), ("a=010", 10),
        ("a=1e3", 1000.0), ("a=.5", 0.5), ("a=yes", "yes"), ("a=on", "on"), ("a=silu", "silu"), ("a='3'", "3"),
        ("a=[1, 2.5, x]", [1, 2.5, "x"]), ("a=1:30", "1:30"), ("a=b=c", "b=c"),
    ],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(line: str, value: object) -> None:
    (found,) = parse_options([line]).values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("config", "holds"),
    [
        (
            {"name": "googlenet", "stem": "imagenet", "options": ["transform_input=true"]},
            lambda m: m.backbone.transform_input,
        ),
        ({"name": "timm/resnet18", "options": ["act_layer=silu"]}, lambda m: isinstance(m.backbone.act1, nn.SiLU)),
        ({"name": "timm/resnet18", "options": ["drop_rate=0.2"]}, lambda m: m.backbone.drop_rate == 0.2),
        (
            {"name": "timm/resnet18", "options": ["output_stride=8"]},
            lambda m: m.backbone.layer4[0].conv1.stride == (1, 1),
        ),
        ({"name": "mobilenet_v2", "options": ["dropout=0.7"]}, lambda m: m.backbone.classifier[0].p == 0.7),
        ({"name": "efficientnet_b0", "options": ["dropout=0.7"]}, lambda m: m.backbone.classifier[0].p == 0.7),
        (
            {"name": "mobilenet_v3_small", "options": ["dilated=true"]},
            lambda m: any(c.dilation == (2, 2) for c in m.modules() if isinstance(c, nn.Conv2d)),
        ),
        ({"name": f"{HERE}:net", "options": ["leak=0.3"]}, lambda m: m.backbone[1].negative_slope == 0.3),
    ],
)
def test_an_option_reaches_the_constructor(config: dict[str, Any], holds: Any) -> None:
    assert holds(build(ModelConfig(**config), image_size=64))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "resnet18", "options": ["drop_rate=0.1"]}, "option='drop_rate' does not exist.*zero_init_residual"),
        (
            {"name": "timm/resnet18", "options": ["drop_rat=0.1"]},
            "option='drop_rat' does not exist; did you mean drop_rate",
        ),
        ({"name": "mobilenet_v3_small", "options": ["dilate=true"]}, "option='dilate' does not exist"),
        ({"name": "resnet8", "options": ["dropout=0.1"]}, "resnet8 has no options, but 'dropout' is set"),
        ({"name": f"{HERE}:net", "options": ["leaks=1"]}, "option='leaks' does not exist; did you mean leak"),
        ({"name": "resnet18", "options": ["num_classes=3"]}, "num_classes is no option .the data set decides it"),
        ({"name": "resnet18", "options": ["weights=DEFAULT"]}, "weights is no option"),
        ({"name": "timm/resnet18", "options": ["checkpoint_path=x.pth"]}, "checkpoint_path is no option"),
        ({"name": "inception_v3", "options": ["aux_logits=true"]}, "aux_logits is no option"),
        ({"name": "resnet18", "options": ["norm_layer=batch"]}, "resnet18 cannot be built with norm_layer='batch'"),
        ({"name": "timm/resnet18", "options": ["act_layer=sillu"]}, "cannot be built with act_layer='sillu'"),
        ({"name": "resnet18", "options": ["silu"]}, "must read name=value"),
        ({"name": "resnet18", "options": ["a=1", "a=2"]}, "sets a twice"),
        ({"name": "resnet18", "options": ["a=[1"]}, "no YAML"),
        ({"name": "resnet18", "options": ["a={b: 1}"]}, "give a word, a number or a list"),
    ],
)
def test_an_option_that_does_nothing_is_refused_in_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        build(ModelConfig(**config))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], [], "model.mean is set, but model.std is not; set both .model.std=.1.0. has no effect"),
        ([], [0.5], "model.std is set, but model.mean is not"),
        ([0.5, 0.5], [0.5], "2 values but model.std=.* has 1"),
        ([0.5], [0.0], "above 0 in every channel"),
        ([0.5], [-1.0], "above 0 in every channel"),
        ([float("nan")], [1.0], "must be finite"),
        ([0.5], [float("inf")], "must be finite"),
        (
            [123.675, 116.28, 103.53], [58.395, 57.12, 57.375],
            r"divide both by 255: model.mean=\[0.485,0.456,0.406\] model.std=\[0.229,0.224,0.225\]",
        ),
        ([0.0], [255.0], "divide both by 255"),
    ],
)  # fmt: skip
def test_a_normalisation_that_cannot_be_meant_is_refused(mean: list[float], std: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(mean=mean, std=std).check()


def test_means_for_another_number_of_channels_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.mean=\[0\.5\] has 1 values, but the network takes 3 channels"):
        build(ModelConfig(mean=[0.5], std=[0.5]))


def test_mean_and_std_of_the_user_replace_those_of_the_data_set() -> None:
    model = build(ModelConfig(mean=[0.1, 0.2, 0.3], std=[1.0, 0.5, 0.25]))
    assert model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.std.flatten().tolist() == [1.0, 0.5, 0.25]


def test_gray_images_are_repeated_for_a_network_of_colours() -> None:
    model = build(ModelConfig(in_channels=3), channels=1).eval()
    x_B1HW = torch.rand(2, 1, 32, 32)
    colour = build(ModelConfig()).eval()
    assert torch.equal(model(x_B1HW), colour(x_B1HW.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(("taken", "remedy"), [(1, "dataset.grayscale=true"), (4, "model.in_channels=3")])
def test_colours_are_not_dropped(taken: int, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        build(ModelConfig(in_channels=taken))
