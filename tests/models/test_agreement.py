"""torchvision's and timm's own loaders are the judges: an import answers as the network does that they load."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from rnet.models.config import ModelConfig
from rnet.models.importing import import_weights
from rnet.models.zoo import build_model

CLASSES, SIZE = 7, 64
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

ARCHITECTURES = {
    "resnet18": SIZE, "densenet121": SIZE, "mobilenet_v2": SIZE, "efficientnet_b0": SIZE, "shufflenet_v2_x0_5": SIZE,
    "squeezenet1_1": SIZE, "regnet_y_400mf": SIZE, "googlenet": SIZE, "inception_v3": 96, "mobilenet_v3_small": SIZE,
    "timm/resnet18": SIZE, "timm/vit_tiny_patch16_224": 224, "timm/convnext_atto": SIZE,
    "timm/mobilenetv3_small_050": SIZE, "timm/efficientnet_lite0": SIZE,
}  # fmt: skip
"""And the side of the images they are fed; published stems, and auxiliary heads where there are some."""
OPTIONS = {"timm/vit_tiny_patch16_224": {"depth": 2}, "timm/convnext_atto": {"depths": [1, 1, 1, 1]}}
"""To be quick."""

State = dict[str, Tensor]


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def rounded(state: State, kind: torch.dtype) -> State:
    return {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


FORMATS: dict[str, Callable[[State, Path], object]] = {
    "safetensors": lambda s, p: save_file({name: tensor.contiguous() for name, tensor in s.items()}, p),
    "torch zip": lambda s, p: torch.save(s, p),
    "legacy": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    "Lightning": lambda s, p: torch.save({"state_dict": prefixed("model.", s), "epoch": 3}, p),
    "DataParallel": lambda s, p: torch.save(prefixed("module.", s), p),
    "compiled": lambda s, p: torch.save(prefixed("_orig_mod.", s), p),
    "DDP of compiled": lambda s, p: torch.save({"model": prefixed("module._orig_mod.", s)}, p),
    "a chosen EMA": lambda s, p: torch.save({"model": {n: t + 1 for n, t in s.items()}, "model_ema": s}, p),
    "fp16": lambda s, p: torch.save(rounded(s, torch.float16), p),
    "bf16": lambda s, p: save_file({n: t.contiguous() for n, t in rounded(s, torch.bfloat16).items()}, p),
}
ROUNDED = {"fp16": torch.float16, "bf16": torch.bfloat16}


def publish(name: str) -> nn.Module:
    """The network as its library makes it, with random weights and batch norm that has seen something."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith("timm/"):
            net = timm.create_model(name.removeprefix("timm/"), num_classes=CLASSES, **OPTIONS.get(name, {}))
        else:
            heads: dict[str, Any] = (
                {"aux_logits": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
            )
            net = models.get_model(name, weights=None, num_classes=CLASSES, **heads)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn_like(module.weight) / 10
            module.running_var = torch.rand_like(module.weight) + 0.5
    return net


def their_logits(net: nn.Module, state: State, x_BCHW: Tensor) -> Tensor:
    net.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    )
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        return net.eval()((x_BCHW - mean) / std)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_import_has_the_logits_that_its_library_gives(name: str, tmp_path: Path) -> None:
    size = ARCHITECTURES[name]
    net = publish(name)
    state = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    x_BCHW = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    options = [f"{key}={value}" for key, value in OPTIONS.get(name, {}).items()]
    config = ModelConfig(name=name, weights="weights", mean=MEAN, std=STD, options=options)
    sizes: dict[str, Any] = {"num_classes": CLASSES, "channels": 3, "image_size": size}
    ours = build_model(config, **sizes, mean_C=[0.0] * 3, std_C=[1.0] * 3, seed=1).eval().requires_grad_(False)
    for format_, save in FORMATS.items():
        file = tmp_path / "weights"
        save(state, file)
        for parameter in ours.parameters():
            parameter.fill_(0.5)
        import_weights(ours, file, "model_ema" if format_ == "a chosen EMA" else None)
        theirs = their_logits(net, rounded(state, ROUNDED.get(format_, torch.float32)), x_BCHW)
        torch.testing.assert_close(ours(x_BCHW), theirs, rtol=1e-5, atol=1e-5, msg=f"{format_} differs")
