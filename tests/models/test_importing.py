"""Strangers' weights: names that wrappers changed are mended where all then fit; everything else is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.models.importing import import_weights
from rnet.models.resnet import SmallResNet

State = dict[str, Tensor]


def classifier(seed: int, classes: int = 5) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(SmallResNet(classes, width=4), [0.5] * 3, [0.5] * 3)


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def compiled_inside(state: State) -> State:
    return {name.replace("layer1.", "layer1._orig_mod."): tensor for name, tensor in state.items()}


def without_counters(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


FORMS: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda s: s, ""),
    "DataParallel": (lambda s: prefixed("module.", s), "prefix 'module.' removed"),
    "compiled": (lambda s: prefixed("_orig_mod.", s), "names of wrappers removed"),
    "DDP of compiled": (lambda s: prefixed("module._orig_mod.", s), "prefix 'module.' removed; names of wrappers"),
    "compiled DDP": (lambda s: prefixed("_orig_mod.module.", s), "prefix 'module.' removed; names of wrappers"),
    "compiled blocks": (compiled_inside, "names of wrappers removed"),
    "FSDP": (lambda s: prefixed("_fsdp_wrapped_module.", s), "names of wrappers removed"),
    "Lightning": (lambda s: {"state_dict": prefixed("model.", s), "epoch": 3}, "prefix 'model.' removed"),
    "nested": (lambda s: {"state_dict": prefixed("net.backbone.", s)}, "prefix 'net.backbone.' removed"),
    "averaged": (
        lambda s: {"n_averaged": torch.tensor(7), **prefixed("module.", s)},
        "prefix 'module.' removed; 1 tensors left out that the architecture does not use (n_averaged, ...)",
    ),
    "counted": (
        lambda s: {**s, "total_ops": torch.ones(1), "layer1.total_params": torch.ones(1)},
        "2 tensors left out that the architecture does not use (total_ops, ...)",
    ),
    "an auxiliary head": (
        lambda s: {**s, "AuxLogits.fc.weight": torch.ones(2, 2)},
        "1 tensors left out that the architecture does not use (AuxLogits.fc.weight, ...)",
    ),
    "before counters": (without_counters, "9 counters of batch norm, which the file lacks, set to 0"),
    "half": (lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()}, ""),
    "double": (lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()}, ""),
    "only one set fits": (lambda s: {"model": s, "teacher": {"weight": torch.ones(3)}}, ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_in_any_wrapping_are_the_model(form: str, tmp_path: Path) -> None:
    wrap, done = FORMS[form]
    theirs, ours = classifier(1).eval(), classifier(2).eval()
    torch.save(wrap(theirs.export_state()), tmp_path / "w.pt")
    assert import_weights(ours, tmp_path / "w.pt").startswith(done)
    assert bool(import_weights(ours, tmp_path / "w.pt")) == bool(done)
    x_BCHW = torch.rand(2, 3, 16, 16)
    tolerance = 0.02 if form == "half" else 0.0
    torch.testing.assert_close(ours(x_BCHW), theirs(x_BCHW), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda a, b: {"model": a, "model_ema": b}, ("model", "model_ema")),
        (lambda a, b: {"state_dict": a, "state_dict_ema": prefixed("module.", b)}, ("state_dict", "state_dict_ema")),
        (
            lambda a, b: {"state_dict": {**prefixed("model.", a), **prefixed("ema_model.", b)}},
            ("state_dict.model", "state_dict.ema_model"),
        ),
        (lambda a, b: {"state_dict": {**a, **prefixed("ema.", b)}}, ("state_dict", "state_dict.ema")),
    ],
)
def test_of_several_copies_one_is_to_be_chosen(
    wrap: Callable[[State, State], Any], names: tuple[str, str], tmp_path: Path
) -> None:
    originals, ours = [classifier(seed).eval() for seed in (1, 2)], classifier(3).eval()
    torch.save(wrap(*(model.export_state() for model in originals)), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"several sets of weights.*choose one") as caught:
        import_weights(ours, tmp_path / "w.pt")
    x_BCHW = torch.rand(2, 3, 16, 16)
    for name, original in zip(names, originals, strict=True):
        assert repr(name) in str(caught.value)
        import_weights(ours, tmp_path / "w.pt", name)
        assert torch.equal(ours(x_BCHW), original(x_BCHW))


def test_torchvisions_published_densenet_names_are_known(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nets = [models.densenet.DenseNet(8, (2, 2), 16, num_classes=3).eval() for _ in range(2)]
    theirs, ours = (Classifier(net, [0.5] * 3, [0.5] * 3).eval() for net in nets)
    old = {
        name.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2."): tensor
        for name, tensor in theirs.export_state().items()
    }
    assert old.keys() != theirs.export_state().keys()
    torch.save(old, tmp_path / "w.pt")
    import_weights(ours, tmp_path / "w.pt")
    x_BCHW = torch.rand(2, 3, 32, 32)
    assert torch.equal(ours(x_BCHW), theirs(x_BCHW))


def efficientnet_pytorch_layers(repeats: tuple[int, ...], squeeze: bool) -> list[str]:
    """The names that EfficientNet-PyTorch gives the layers, in the order in which it makes them."""
    found = ["_conv_stem", "_bn0"]
    for block in range(sum(repeats)):
        inside = ["_expand_conv", "_bn0"] if block >= repeats[0] else []
        inside += ["_depthwise_conv", "_bn1", *(["_se_reduce", "_se_expand"] if squeeze else [])]
        found += [f"_blocks.{block}.{layer}" for layer in (*inside, "_project_conv", "_bn2")]
    return [*found, "_conv_head", "_bn1", "_fc"]


@pytest.mark.parametrize(
    ("name", "squeeze", "prefix"), [("tf_efficientnet_lite0", False, "net.model."), ("tf_efficientnet_b0", True, "")]
)
def test_an_efficientnet_of_efficientnet_pytorch_is_timms(
    name: str, squeeze: bool, prefix: str, tmp_path: Path
) -> None:
    theirs, ours = (Classifier(timm.create_model(name, num_classes=5), [0.5] * 3, [0.5] * 3) for _ in range(2))
    own: dict[str, State] = {}
    for key, tensor in theirs.export_state().items():
        layer, _, what = key.rpartition(".")
        own.setdefault(layer, {})[f".{what}"] = tensor
    layers = efficientnet_pytorch_layers((1, 2, 2, 3, 3, 4, 1), squeeze)
    named = {
        f"{prefix}{layer}{what}": tensor
        for layer, tensors in zip(layers, own.values(), strict=True)
        for what, tensor in tensors.items()
    }
    save_file({key: tensor.contiguous() for key, tensor in named.items()}, tmp_path / "w.safetensors")
    assert import_weights(ours, tmp_path / "w.safetensors").endswith("names of EfficientNet-PyTorch turned into timm's")
    assert all(torch.equal(tensor, ours.export_state()[key]) for key, tensor in theirs.export_state().items())


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda s: {name: tensor for name, tensor in s.items() if name != "fc.bias"}, "missing fc.bias"),
        (lambda s: {**s, "head.weight": torch.ones(1)}, "unexpected head.weight"),
        (lambda s: prefixed("module.", {**s, "head.weight": torch.ones(1)}), "missing"),
        (lambda s: {**s, "conv1.weight": s["conv1.weight"] * float("nan")}, "conv1.weight has 108 of 108 values that"),
        (
            lambda s: {**s, "fc.bias": torch.tensor([0.0, float("inf"), 0, 0, 0])},
            "fc.bias has 1 of 5 values that are not",
        ),
        (lambda s: classifier(1, classes=7).export_state(), "Their last layer, fc, was trained for 7 classes.* has 5"),
        (
            lambda s: Classifier(SmallResNet(5, width=8), [0.5] * 3, [0.5] * 3).export_state(),
            "of another shape.*model.width",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_the_model_stays(
    wrap: Callable[[State], State], said: str, tmp_path: Path
) -> None:
    ours = classifier(2)
    before = {name: tensor.clone() for name, tensor in ours.export_state().items()}
    torch.save(wrap(classifier(1).export_state()), tmp_path / "w.pt")
    with pytest.raises(UserError, match=said):
        import_weights(ours, tmp_path / "w.pt")
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.export_state().items())
