"""Activation checkpointing: the same bits as without, less memory, and a model that is otherwise untouched."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.vgg import VGG, make_layers
from torchvision.models.vision_transformer import VisionTransformer

from rnet.cutting.split import SplitModel
from rnet.models.resnet import SmallResNet
from rnet.rewrites.activation_checkpointing import checkpoint_activations, keep_activations


def _vgg11_bn() -> nn.Module:
    """With an eighth of the channels."""
    layers: list[str | int] = [8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"]
    vgg = VGG(make_layers(layers, batch_norm=True), num_classes=1, init_weights=False)  # type: ignore[arg-type]
    vgg.avgpool = nn.AdaptiveAvgPool2d(1)
    vgg.classifier = nn.Sequential(nn.Linear(64, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 5))
    return vgg


def _convnext() -> nn.Module:
    blocks = [CNBlockConfig(8, 16, 2), CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 1)]
    return ConvNeXt(blocks, stochastic_depth_prob=0.5, layer_scale=0.3, num_classes=5)


VIT = partial(VisionTransformer, 32, 8, 4, 2, 16, 32, dropout=0.1, attention_dropout=0.1, num_classes=5)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], list[str]]] = {
    "resnet20": (
        partial(SmallResNet, 5, width=4, blocks_per_stage=3),
        ("layer1", "layer2.0"),
        [f"layer{stage}.{n}" for stage in (1, 2, 3) for n in (0, 1, 2)],
    ),
    "resnet18": (
        partial(models.resnet18, weights=None, num_classes=5),
        ("layer2",),
        [f"layer{stage}.{n}" for stage in (1, 2, 3, 4) for n in (0, 1)],
    ),
    "vgg11_bn": (_vgg11_bn, ("features.7", "features.9", "features"), ["features"]),
    "vit": (
        VIT,
        ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"),
        [f"encoder.layers.encoder_layer_{n}" for n in range(4)],
    ),
    "convnext": (
        _convnext,
        ("features.1", "features.3.0"),
        [f"features.{n}" for n in ("1.0", "1.1", "3.0", "3.1", "5")],
    ),
}
"""How it is built, where it is cut, which blocks it has."""
CUTS = [(name, layer) for name, (_, layers, _) in CASES.items() for layer in (None, *layers)]


@cache
def _built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CASES[name][0]()
        for parameter in model.parameters():
            if not parameter.any():  # a head that starts at zero passes no gradient on
                nn.init.normal_(parameter, std=0.1)
        return model


def _model(name: str) -> nn.Module:
    return copy.deepcopy(_built(name))


def _images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _trained(model: nn.Module, layer: str | None, steps: int = 2, autocast: bool = False) -> dict[str, Tensor]:
    """Outputs, gradients, buffers and random state after training steps that start from the same random state."""
    run: Any = model if layer is None else partial(SplitModel(model, layer), return_features=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for step in range(steps):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
                outputs = run(_images())
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            sum(output.float().square().mean() for output in outputs).backward()
            found |= {f"step {step} output {n}": output.detach() for n, output in enumerate(outputs)}
            found |= {f"step {step} d{n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            optimizer.step()
        found["random state"] = torch.get_rng_state()
    return found | {name: value.clone() for name, value in model.state_dict().items()}


def _assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize(("name", "layer"), CUTS)
def test_outputs_gradients_and_buffers_have_the_same_bits(name: str, layer: str | None) -> None:
    expected = _trained(_model(name), layer)
    model = _model(name)
    assert checkpoint_activations(model) == CASES[name][2]
    _assert_same_bits(_trained(model, layer), expected)


@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn", "vit", "convnext"])
def test_autocast_is_the_same_in_the_recomputation(name: str) -> None:
    expected = _trained(_model(name), None, steps=1, autocast=True)
    model = _model(name)
    checkpoint_activations(model)
    _assert_same_bits(_trained(model, None, steps=1, autocast=True), expected)


class _Counting(nn.Module):
    """Two layers, a batch norm and state of its own."""

    calls: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, **settings))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        self.calls += 1
        return scale * self.body(x) + x


@pytest.mark.parametrize(
    "settings", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str
)
def test_statistics_are_counted_once(settings: dict[str, Any]) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(_Counting(**settings), _Counting(**settings))
        model[1].body[2].eval()
        return model

    expected = _trained(make(), None, steps=3, autocast=True)
    model = make()
    buffers = {name: buffer for name, buffer in model.named_buffers() if "num_batches" not in name}
    assert checkpoint_activations(model) == ["0", "1"]
    _assert_same_bits(_trained(model, None, steps=3, autocast=True), expected)
    assert int(model[0].calls) == int(model[1].calls) == 3
    assert all(model.get_buffer(name) is buffer for name, buffer in buffers.items())
    if model[0].body[2].track_running_stats:
        assert int(model[0].body[2].num_batches_tracked) == 3
        assert int(model[1].body[2].num_batches_tracked) == 0


class _Saved:
    """Bytes that autograd keeps for the backward pass, weights excepted; no storage counts twice."""

    def __init__(self, model: nn.Module) -> None:
        self._seen = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
        self._alive: list[Tensor] = []
        self.bytes = 0

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._alive.append(tensor)  # so that no other tensor gets its address
            self.bytes += storage.nbytes()
        return tensor

    @contextmanager
    def counted(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield


def _kept_bytes(model: nn.Module) -> int:
    saved = _Saved(model)
    with saved.counted():
        output = model(_images())
    del output
    return saved.bytes


def _bytes_by_unit(model: nn.Module, units: list[list[nn.Module]]) -> list[int]:
    """What each unit, modules that run one after the other, keeps in an ordinary forward pass of the model."""
    saved = _Saved(model)
    at: dict[tuple[int, str], int] = {}
    handles: list[RemovableHandle] = []
    for number, unit in enumerate(units):
        handles.append(unit[0].register_forward_pre_hook(lambda *_, n=number: at.update({(n, "in"): saved.bytes})))
        handles.append(unit[-1].register_forward_hook(lambda *_, n=number: at.update({(n, "out"): saved.bytes})))
    with saved.counted():
        output = model(_images())
    del output
    for handle in handles:
        handle.remove()
    return [at[n, "out"] - at[n, "in"] for n in range(len(units))]


@pytest.mark.parametrize(("name", "share"), [("resnet20", 0.5), ("resnet18", 0.75), ("vgg11_bn", 0.6), ("vit", 0.4)])
def test_peak_of_saved_activations_falls(name: str, share: float) -> None:
    """The peak of the backward pass: what was kept, and the largest block while it is computed again."""
    model = _model(name)
    ordinary = _kept_bytes(model)
    blocks = [[model.get_submodule(block)] for block in CASES[name][2]]
    if name == "vgg11_bn":  # what lies between its pooling layers
        blocks = [list(model.features[i:j]) for i, j in itertools.pairwise((0, 4, 8, 15, 22, 29))]
    largest = max(_bytes_by_unit(model, blocks))
    checkpoint_activations(model)
    kept = _kept_bytes(model)
    assert kept + largest < share * ordinary
    model.eval()
    assert _kept_bytes(model) > 0.5 * ordinary  # eval mode keeps what it always did
    with torch.no_grad():
        assert _kept_bytes(model.train()) == 0


def test_each_block_is_computed_again_once_and_only_in_training() -> None:
    model = _model("resnet20")
    calls: list[str] = []
    for name in CASES["resnet20"][2]:
        model.get_submodule(name).conv1.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    checkpoint_activations(model)
    model(_images()).sum().backward()
    assert calls == [*CASES["resnet20"][2], *reversed(CASES["resnet20"][2])]
    calls.clear()
    with torch.no_grad():
        model(_images())
    assert len(calls) == 9
    model.eval()(_images()).sum().backward()
    assert len(calls) == 18


def test_nothing_but_the_forward_of_blocks_changes() -> None:
    model = _model("convnext")
    before = dict(model.state_dict(keep_vars=True))
    names = [name for name, _ in model.named_modules()]
    attributes = [dict(vars(module)) for module in model.modules()]
    blocks = checkpoint_activations(model)
    assert checkpoint_activations(model) == blocks
    assert [name for name, module in model.named_modules() if "forward" in vars(module)] == blocks
    after = dict(model.state_dict(keep_vars=True))
    assert [name for name, _ in model.named_modules()] == names
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    keep_activations(model)
    assert [dict(vars(module)) for module in model.modules()] == attributes


@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn"])
def test_a_deep_copy_computes_with_its_own_modules(name: str) -> None:
    model = _model(name)
    checkpoint_activations(model)
    twin = copy.deepcopy(model)
    expected = _trained(_model(name), None)
    _assert_same_bits(_trained(twin, None), expected)
    assert all(parameter.grad is None for parameter in model.parameters())
    keep_activations(twin)
    assert not any("forward" in vars(module) for module in twin.modules())


class _Growing(nn.Module):
    """Calls its blocks with a list that it goes on appending to, as densely connected networks do."""

    class Layer(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(channels, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, features: list[Tensor], scale: float) -> Tensor:
            return scale * self.conv2(self.conv1(torch.cat(features, 1)).relu())

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Layer(3 * n) for n in (1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for block in self.blocks:
            features.append(block(features, scale=0.5))
        return torch.cat(features, 1)


def _residual(*layers: nn.Module) -> nn.Module:
    block = nn.Module()
    block.body = nn.Sequential(*layers)
    return block


def _conv_norm(channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU())


def test_a_list_that_grows_between_blocks_is_no_trap() -> None:
    torch.manual_seed(0)
    model = _Growing()
    expected = _trained(copy.deepcopy(model), None)
    assert checkpoint_activations(model) == ["blocks.0", "blocks.1", "blocks.2"]
    _assert_same_bits(_trained(model, None), expected)


def test_keyword_arguments_reach_the_recomputation() -> None:
    torch.manual_seed(0)
    block = _Counting()
    found: list[Tensor] = []
    for wrap in (False, True):
        model = nn.Sequential(copy.deepcopy(block))
        if wrap:
            checkpoint_activations(model)
        model[0](_images(), scale=3.0).square().sum().backward()
        found.append(model[0].body[0].weight.grad)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        pytest.param(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), [], id="few single layers"),
        pytest.param(nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))), [""], id="the model itself is flat"),
        pytest.param(nn.Sequential(*(_conv_norm() for _ in range(5))), [""], id="convolutions with their norms"),
        pytest.param(nn.ModuleList([_residual(nn.Linear(4, 4), nn.Linear(4, 4))]), ["0"], id="a list"),
        pytest.param(
            nn.Sequential(nn.Sequential(_residual(nn.Linear(4, 4), nn.Linear(4, 4)), _conv_norm())),
            ["0"],
            id="one block",
        ),
        pytest.param(
            nn.Sequential(_residual(*(_residual(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(2)))),
            ["0.body.0", "0.body.1"],
            id="a stage in a module of its own",
        ),
        pytest.param(nn.Linear(4, 4), [], id="a single layer"),
        pytest.param(_residual(nn.BatchNorm2d(3), nn.LayerNorm(3)), [], id="norms only"),
    ],
)
def test_blocks_are_found_and_never_nested(model: nn.Module, names: list[str]) -> None:
    assert checkpoint_activations(model) == names
