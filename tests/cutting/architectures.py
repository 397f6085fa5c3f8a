"""The architectures that the cut is tested on: published families, small where depth and width do not matter.

A case: a function that builds the module, the side of its input, and the layers to cut at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import timm
import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from rnet.models.resnet import SmallResNet


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    side: int
    layers: tuple[str, ...]


def _vgg19_bn() -> nn.Module:
    vgg = models.vgg19_bn(weights=None, init_weights=False, num_classes=1)
    vgg.classifier = nn.Sequential(nn.Linear(512 * 49, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 5))
    return vgg


def _convnext() -> nn.Module:
    blocks = [CNBlockConfig(8, 16, 2), CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 1)]
    return ConvNeXt(blocks, stochastic_depth_prob=0.5, num_classes=5)


_RESNET = ("maxpool", "layer1", "layer2", "layer3", "layer4")
_DENSENET = ("features.pool0", *(f"features.transition{n}" for n in (1, 2, 3)), "features.norm5")
_BLOCKS = (1, 3, 5, 8, 11)
_SWIN = {"embed_dim": 8, "depths": [2, 2, 2], "num_heads": [1, 2, 2]}

CASES = {
    "resnet8": Case(partial(SmallResNet, 5), 32, ("relu", "layer1", "layer2", "layer3")),
    "vgg19_bn": Case(_vgg19_bn, 32, tuple(f"features.{n}" for n in (6, 13, 26, 39, 52))),
    "resnet50": Case(partial(models.resnet50, weights=None, num_classes=5), 32, (*_RESNET, "layer3.1")),
    "densenet121": Case(partial(models.densenet121, weights=None, num_classes=5), 32, _DENSENET),
    "densenet121 with dropout": Case(
        partial(models.densenet121, weights=None, num_classes=5, drop_rate=0.2),
        32,
        (*_DENSENET[1::3], "features.denseblock2"),
    ),
    "mobilenet_v2": Case(
        partial(models.mobilenet_v2, weights=None, num_classes=5),
        32,
        tuple(f"features.{n}" for n in (3, 6, 10, 16, 18)),
    ),
    "inception_v3": Case(
        partial(models.inception_v3, weights=None, aux_logits=False, init_weights=False, num_classes=5),
        75,
        ("Conv2d_1a_3x3", "Mixed_5d", "Mixed_6a", "Mixed_6e", "Mixed_7c"),
    ),
    "torchvision ViT": Case(
        partial(VisionTransformer, 32, 8, 12, 2, 16, 32, dropout=0.1, attention_dropout=0.1, num_classes=5),
        32,
        tuple(f"encoder.layers.encoder_layer_{n}" for n in _BLOCKS),
    ),
    "timm ViT": Case(
        partial(timm.create_model, "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, num_heads=2,
                drop_rate=0.1, proj_drop_rate=0.1, drop_path_rate=0.3, num_classes=5),
        32,
        tuple(f"blocks.{n}" for n in _BLOCKS),
    ),
    "timm ViT, average pooling": Case(
        partial(timm.create_model, "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, num_heads=2,
                depth=3, global_pool="avg", class_token=False, num_classes=5),
        32,
        ("blocks.0", "norm"),
    ),
    "efficientnet_lite0": Case(
        partial(timm.create_model, "tf_efficientnet_lite0", drop_rate=0.2, drop_path_rate=0.2, num_classes=5),
        32,
        ("conv_stem", "blocks.2", "blocks.4.1", "conv_head"),
    ),
    "convnext": Case(_convnext, 32, ("features.1", "features.3.0", "features.5")),
    "torchvision Swin": Case(
        partial(SwinTransformer, patch_size=[4, 4], window_size=[4, 4], dropout=0.1, attention_dropout=0.1,
                stochastic_depth_prob=0.5, num_classes=5, **_SWIN),
        32,
        ("features.1", "features.3.0", "norm"),
    ),
    "timm Swin": Case(
        partial(timm.create_model, "swin_tiny_patch4_window7_224", img_size=32, window_size=4, drop_rate=0.1,
                drop_path_rate=0.5, num_classes=5, **_SWIN),
        32,
        ("patch_embed", "layers.0", "layers.1.blocks.0", "layers.2"),
    ),
}  # fmt: skip
CUTS = [(name, layer) for name, case in CASES.items() for layer in case.layers]


@cache
def architecture(name: str) -> nn.Module:
    """The module of a case, built once; tests that write to it copy it first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CASES[name].build()
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():  # a head that starts at zero would hide any mistake before it
                    parameter.normal_(std=0.1)
        return model


def images(name: str, count: int = 2) -> torch.Tensor:
    """Random normalised images for a case."""
    side = CASES[name].side
    return torch.randn((count, 3, side, side), generator=torch.Generator().manual_seed(1))
