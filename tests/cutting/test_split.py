"""tail(head(x)) is the model bit for bit, in every mode; what tail is given stays as it was; copies are independent."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnet.cutting.split import SplitModel, channel_axis
from rnet.models.classifier import Classifier
from rnet.models.resnet import SmallResNet
from tests.cutting.architectures import CASES, CUTS, architecture, images


def seeded(call: Callable[[], Tensor]) -> Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        return call()


def written(model: nn.Module) -> list[Tensor]:
    """What a forward pass may write: the statistics of batch norms."""
    return [buffer.clone() for buffer in model.buffers()]


def rewind(model: nn.Module, buffers: list[Tensor]) -> None:
    for buffer, value in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(value)


@cache
def reference(name: str, training: bool) -> tuple[Tensor, list[Tensor]]:
    """Logits and buffers after one pass of the module itself."""
    model = copy.deepcopy(architecture(name)).train(training)
    return seeded(lambda: model(images(name))), written(model)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "layer"), CUTS)
def test_head_and_tail_are_the_model_bit_for_bit(name: str, layer: str, training: bool) -> None:
    model, x_BCHW = architecture(name).train(training), images(name)
    logits_BK, buffers = reference(name, training)
    before = written(model)
    split = SplitModel(model, layer)
    for call in (
        lambda: split(x_BCHW),
        lambda: split.tail(split.head(x_BCHW)),
        lambda: split(x_BCHW, return_features=True)[0],
    ):
        found_BK = seeded(call)
        found_buffers = written(model)
        rewind(model, before)
        assert torch.equal(found_BK, logits_BK)
        assert all(torch.equal(found, buffer) for found, buffer in zip(found_buffers, buffers, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_cases_tell_the_modes_apart(name: str) -> None:
    assert not torch.equal(reference(name, True)[0], reference(name, False)[0]) or name.endswith("average pooling")


class Dropping(nn.Module):
    """Dropout and batch norm as functions, in the module around the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.inner = nn.Module()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.dropout(self.first(F.dropout(x, 0.5, self.training)), 0.5, self.training))


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = Dropping(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.last(self.inner(x)), 0.5, self.training)


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_functional_dropout_follows_the_mode_of_its_own_module(outer: bool, inner: bool) -> None:
    model, x_BD = Around(), torch.ones(4, 6)
    split = SplitModel(model, "inner.first")
    model.train(outer)
    model.inner.train(inner)
    assert torch.equal(seeded(lambda: split(x_BD)), seeded(lambda: model(x_BD)))


def test_making_a_split_model_leaves_modes_and_attributes_alone() -> None:
    model = Around()
    model.inner.first.eval()
    state = [dict(vars(module)) for module in model.modules()]
    SplitModel(model, "inner.first")
    assert [dict(vars(module)) for module in model.modules()] == state


def test_state_has_the_names_of_the_model() -> None:
    model = SmallResNet(3)
    assert set(SplitModel(model, "layer1").state_dict()) == {f"model.{name}" for name in model.state_dict()}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("inference", [True, False])
def test_tail_does_not_write_to_its_input(training: bool, inference: bool) -> None:
    split = SplitModel(copy.deepcopy(architecture("densenet121")).train(training), "features.norm5")
    with torch.inference_mode(inference):
        for _ in range(2):
            logits_BK, z = split(images("densenet121"), return_features=True)
            assert (z < 0).any()  # the model goes on with an in-place ReLU
            before = z.clone()
            split.tail(z)
            assert torch.equal(z, before)
    assert logits_BK.shape == (2, 5)


def test_tail_after_inference_mode_still_finds_out_that_it_writes() -> None:
    split = SplitModel(architecture("densenet121").eval(), "features.norm5")
    with torch.inference_mode():
        split.tail(split.head(images("densenet121")))
    z = split.head(images("densenet121"))
    before = z.detach().clone()
    split.tail(z)
    assert torch.equal(z, before)


def test_gradient_of_the_tail_with_respect_to_a_leaf() -> None:
    model = architecture("densenet121").eval()
    split = SplitModel(model, "features.norm5")
    for _ in range(2):  # the first call finds out, the later ones rely on it
        z = torch.randn(2, 1024, 1, 1, generator=torch.Generator().manual_seed(3)).requires_grad_()
        (found,) = torch.autograd.grad(split.tail(z).square().sum(), z)
        expected_BC = (2 * model.classifier(F.relu(z).flatten(1)) @ model.classifier.weight) * (z.flatten(1) > 0)
        torch.testing.assert_close(found.flatten(1), expected_BC)


def test_tail_passes_on_what_it_is_given_without_a_copy_where_the_model_does_not_write() -> None:
    split = SplitModel(SmallResNet(3).eval(), "layer3")
    seen: list[Tensor] = []
    split.model.avgpool.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    z = split.head(torch.rand(2, 3, 8, 8))
    split.tail(z)
    split.tail(z)
    assert seen[1] is z


def test_a_deep_copy_is_independent_and_holds_nothing_of_the_original() -> None:
    split = SplitModel(SmallResNet(3).eval(), "layer1")
    x_BCHW = torch.rand(2, 3, 8, 8)
    logits_BK = split(x_BCHW)
    clone = copy.deepcopy(split)
    with torch.no_grad():
        clone.model.fc.bias.add_(1)
        clone.model.conv1.weight.zero_()
    assert torch.equal(split(x_BCHW), logits_BK)
    assert torch.equal(clone(x_BCHW), clone.model(x_BCHW))
    original = weakref.ref(split.model)
    del split
    gc.collect()
    assert original() is None


def test_a_pickled_split_model_computes_the_same() -> None:
    split = SplitModel(Classifier(SmallResNet(3), (0.5,) * 3, (0.2,) * 3).eval(), "layer2")
    x_BCHW = torch.rand(2, 3, 8, 8)
    loaded = pickle.loads(pickle.dumps(split))
    assert not loaded.training
    assert torch.equal(loaded(x_BCHW), split(x_BCHW))


def test_a_split_model_follows_its_model_to_another_type() -> None:
    split = SplitModel(Classifier(SmallResNet(3), (0.5,) * 3, (0.2,) * 3).eval(), "layer1")
    split.double()
    logits_BK = split(torch.rand(2, 3, 8, 8, dtype=torch.float64))
    assert logits_BK.dtype == torch.float64


@pytest.mark.parametrize("input_size", [None, 12])
def test_a_classifier_is_cut_under_the_names_of_its_backbone(input_size: int | None) -> None:
    model = Classifier(SmallResNet(3), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), input_size=input_size).eval()
    x_BCHW = torch.rand(2, 3, 8, 8)
    for layer in ("layer2", "backbone.layer2"):
        assert torch.equal(SplitModel(model, layer)(x_BCHW), model(x_BCHW))


def test_parameters_read_outside_of_submodules_are_listed() -> None:
    split = SplitModel(architecture("timm ViT"), "blocks.1")
    assert split.direct_parameters == ["cls_token", "pos_embed"]
    assert SplitModel(architecture("resnet8"), "layer1").direct_parameters == []


def test_modes_show_what_will_run() -> None:
    head, tail = SplitModel(SmallResNet(3), "layer2").modes["train"]
    assert "self.layer2(" in head
    assert "self.fc(" not in head
    assert "self.fc(" in tail


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((2, 7), 1),
        ((2, 5, 7), 2),
        ((2, 7, 4, 4), 1),
        ((2, 4, 4, 7), 3),
        ((2, 7, 1, 1), 1),
        ((2, 1, 1, 7), 3),
        ((2, 4, 4, 4), 1),
        ((2, 7, 4, 5), 1),
        ((2, 7, 3, 4, 4), 1),
    ],
)
def test_channel_axis(shape: tuple[int, ...], axis: int) -> None:
    assert channel_axis(torch.empty(shape)) == axis


@pytest.mark.parametrize(
    ("name", "layer", "channels"),
    [("resnet50", "layer2", 512), ("timm ViT", "blocks.3", 16), ("torchvision Swin", "features.1", 8)],
)
def test_channel_axis_of_features(name: str, layer: str, channels: int) -> None:
    z = SplitModel(architecture(name).eval(), layer).head(images(name))
    assert z.shape[channel_axis(z)] == channels
