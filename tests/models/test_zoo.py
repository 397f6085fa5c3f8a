"""Models by name: where a name leads, how a model is fitted to images, what is refused."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import yaml
from torch import Tensor, nn
from torchvision.models import get_model

from rnet.cutting.cuts import usual_cut_layers
from rnet.cutting.split import SplitModel
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.models.resnet import SmallResNet
from rnet.models.zoo import build_model

HERE = "tests.models.test_zoo"
OPTIONS = sorted((Path(__file__).parents[2] / "configs" / "model").glob("*.yaml"))


def build(config: ModelConfig, *, channels: int = 3, image_size: int = 32, seed: int = 0) -> Classifier:
    return build_model(
        config, num_classes=5, channels=channels, image_size=image_size, mean_C=(0.5,) * channels,
        std_C=(0.25,) * channels, seed=seed,
    )  # fmt: skip


def tiny_net(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def forgets_channels(num_classes: int) -> nn.Module:
    return nn.Linear(1, num_classes)


def gives_no_module(num_classes: int, in_channels: int) -> int:
    return num_classes + in_channels


def gives_wrong_logits(num_classes: int, in_channels: int) -> nn.Module:
    return tiny_net(num_classes + 1, in_channels)


def test_the_seed_decides_the_weights_and_the_global_state_is_kept() -> None:
    states = torch.get_rng_state(), random.getstate()
    first, again, other = (build(ModelConfig(), seed=seed).export_state() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnet14", SmallResNet),
        ("resnet18", torchvision.models.ResNet),
        ("timm/resnet18", timm.models.ResNet),
        ("torchvision/resnet18", torchvision.models.ResNet),
        ("resnet10t", timm.models.ResNet),
        ("timm/resnet10t.c3_in1k", timm.models.ResNet),
    ],
)
def test_a_name_is_looked_up_here_then_in_torchvision_then_in_timm(name: str, kind: type) -> None:
    assert type(build(ModelConfig(name=name)).backbone) is kind


@pytest.mark.parametrize(
    ("name", "stem", "expected"),
    [
        ("resnet18", "small", (64, 16, 16)),
        ("resnet18", "auto", (64, 16, 16)),
        ("resnet18", "imagenet", (64, 8, 8)),
        ("timm/resnet18", "auto", (64, 16, 16)),
        ("densenet121", "auto", (64, 16, 16)),
        ("mobilenet_v2", "auto", (32, 32, 32)),
        ("mobilenet_v2", "imagenet", (32, 16, 16)),
        ("timm/tf_efficientnet_lite0", "auto", (32, 32, 32)),
        ("timm/tf_efficientnet_lite0", "imagenet", (32, 16, 16)),
        ("efficientnet_b0", "small", (32, 32, 32)),
    ],
)
def test_a_small_stem_keeps_the_resolution_up_to_the_pooling(
    name: str, stem: str, expected: tuple[int, int, int]
) -> None:
    model = build(ModelConfig(name=name, stem=stem)).eval()
    names = ("maxpool", "features.pool0", "features.0", "conv_stem")
    layer = next(candidate for candidate in names if candidate in model.layer_names())
    assert SplitModel(model, layer).head(torch.rand(1, 3, 32, 32)).shape == (1, *expected)


def test_auto_keeps_the_published_stem_of_large_images() -> None:
    assert build(ModelConfig(name="resnet18"), image_size=96).backbone.conv1.kernel_size == (7, 7)
    assert build(ModelConfig(name="resnet18", input_size=96)).backbone.conv1.kernel_size == (7, 7)
    assert build(ModelConfig(name="resnet18"), image_size=64).backbone.conv1.kernel_size == (3, 3)


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "mobilenet_v2", "timm/resnet10t", "squeezenet1_1"])
def test_grey_images_are_taken(name: str) -> None:
    model = build(ModelConfig(name=name), channels=1)
    model(torch.rand(2, 1, 32, 32)).sum().backward()
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.shape[1] == first.in_channels == 1
    assert first.weight.grad is not None


def test_a_model_of_a_fixed_size_takes_the_images_of_the_dataset() -> None:
    config = ModelConfig(name="timm/vit_tiny_patch16_224", patch_size=8, input_size=48)
    model = build(config, image_size=28)
    assert model.backbone.patch_embed.grid_size == (6, 6)
    assert model(torch.rand(1, 3, 28, 28)).shape == (1, 5)
    assert build(dataclasses.replace(config, input_size=None)).backbone.patch_embed.grid_size == (4, 4)
    split = SplitModel(model.eval(), model.cut_layers[0])
    assert torch.equal(split(torch.ones(1, 3, 28, 28)), model(torch.ones(1, 3, 28, 28)))


def test_a_plugin_is_called_with_classes_and_channels() -> None:
    config = ModelConfig(name=f"{HERE}:tiny_net", cut_layers=["0", "2"])
    model = build(config, channels=2)
    assert model.backbone[0].in_channels == 2
    assert model.architecture == f"{HERE}:tiny_net"
    assert model.cut_layer == "2"
    assert build(dataclasses.replace(config, cut_layers=[]), channels=2).cut_layer is None


REFUSED = [
    ({"name": "resnet9"}, "model='resnet9' does not exist; did you mean resnet8"),
    ({"name": "resnet5O"}, "did you mean resnet50"),
    ({"name": "vit_tiny_patch16_224", "source": "torchvision"}, "does not exist"),
    ({"source": "tv"}, "model.source='tv' does not exist; choose one of"),
    ({"stem": "large"}, "model.stem='large' does not exist; choose one of"),
    ({"name": "timm/resnet18", "source": "torchvision"}, "contradicts model.source='torchvision'"),
    ({"name": "squeezenet1_1", "stem": "small"}, "model.stem='small' is not known for squeezenet1_1"),
    ({"name": "resnet18", "width": 8}, "model.width=8 has no effect on resnet18"),
    ({"name": "resnet18", "patch_size": 8}, "model.patch_size=8 has no effect on resnet18"),
    ({"name": "timm/resnet10t", "patch_size": 8}, "cannot be built for 32-pixel images"),
    ({"width": 0}, "model.width=0 must be at least 1"),
    ({"cut_layers": ["layr1"]}, "model.cut_layers='layr1' does not exist; did you mean layer1"),
    ({"name": "alexnet"}, "model='alexnet' cannot take images of shape (3, 32, 32)"),
    ({"name": "mylab:"}, "must read package.module:Name"),
    ({"name": "no_such_module:f"}, "cannot be imported"),
    ({"name": f"{HERE}:tiny_nut"}, "did you mean tiny_net"),
    ({"name": f"{HERE}:HERE"}, "is a str, not a function or a class"),
    ({"name": f"{HERE}:forgets_channels"}, "must accept num_classes and in_channels"),
    ({"name": f"{HERE}:gives_no_module"}, "returned a int, not a torch.nn.Module"),
    ({"name": f"{HERE}:gives_wrong_logits"}, "must return logits (B, 5) but returned (1, 6)"),
    ({"name": f"{HERE}:tiny_net", "stem": "small"}, "model.stem='small' is not known for tests"),
    ({"name": f"{HERE}:tiny_net", "source": "timm"}, "model.source='timm' has no effect"),
    ({"name": f"{HERE}:tiny_net", "width": 8}, "model.width=8 has no effect"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_a_configuration_that_cannot_be_built_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        build(ModelConfig(**fields))
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20", ["relu", "layer1", "layer2", "layer3"]),
        ("resnet50", ["maxpool", "layer1", "layer2", "layer3", "layer4"]),
        ("timm/resnet50", ["maxpool", "layer1", "layer2", "layer3", "layer4"]),
        ("vgg19_bn", [f"features.{n}" for n in (6, 13, 26, 39, 52)]),
        ("vgg11", [f"features.{n}" for n in (2, 5, 10, 15, 20)]),
        ("mobilenet_v2", [f"features.{n}" for n in (3, 6, 10, 16, 18)]),
        ("densenet121", ["features.pool0", *(f"features.transition{n}" for n in (1, 2, 3)), "features.norm5"]),
        ("inception_v3", ["Conv2d_1a_3x3", "Mixed_5d", "Mixed_6a", "Mixed_6e", "Mixed_7c"]),
        ("vit_b_16", [f"encoder.layers.encoder_layer_{n}" for n in (1, 3, 5, 8, 11)]),
        ("vit_l_16", [f"encoder.layers.encoder_layer_{n}" for n in (3, 7, 11, 17, 23)]),
        ("timm/deit_tiny_patch16_224", [f"blocks.{n}" for n in (1, 3, 5, 8, 11)]),
        ("squeezenet1_1", []),
        ("swin_t", []),
    ],
)
def test_the_usual_cut_layers(name: str, expected: list[str]) -> None:
    with torch.device("meta"):
        if name.startswith("timm/"):
            backbone = timm.create_model(name.removeprefix("timm/"))
        else:
            backbone = SmallResNet(5) if name == "resnet20" else get_model(name, weights=None)
    assert usual_cut_layers(backbone) == expected


def test_a_model_is_cut_at_the_second_usual_layer_or_where_the_user_says() -> None:
    assert build(ModelConfig(name="resnet8")).cut_layer == "layer1"
    assert build(ModelConfig(name="resnet8", cut_layers=["layer2.0"])).cut_layer == "layer2.0"


def test_a_look_alike_without_the_usual_layers_has_no_usual_cuts() -> None:
    class ResNet(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    assert usual_cut_layers(ResNet()) == []


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_every_option_names_a_model_and_sets_only_what_differs(path: Path) -> None:
    options = yaml.safe_load(path.read_text())
    config = ModelConfig(**options)
    assert all(value != getattr(ModelConfig(), key) for key, value in options.items() if key != "name")
    assert len(build(config, image_size=config.input_size or 224).cut_layers) in (0, 4, 5)
