"""Modules as users write them: what is traced faithfully, and what is refused with the reason and the remedy."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from rnet.cutting.split import SplitModel
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.models.resnet import SmallResNet
from tests.cutting.architectures import architecture
from tests.cutting.user_models import (
    Asserts,
    Branches,
    BranchesInside,
    CalledTwice,
    ComputesWithBuffers,
    CountsWithIntegers,
    DefaultArguments,
    DrawsNoise,
    HoldsAList,
    InputUsedTwice,
    MakesATensor,
    NeverCalled,
    ReadsAWeightTwice,
    RemembersFeatures,
    ReturnsTwo,
    ShapeOfTheInput,
    SkipsAtRandom,
    Slices,
    StopsGradients,
    SwitchesAutocastOff,
    UserModel,
    WritesInPlace,
)

FAITHFUL = [
    DefaultArguments, WritesInPlace, CountsWithIntegers, ReadsAWeightTwice, ComputesWithBuffers, Slices, Asserts,
    RemembersFeatures,
]  # fmt: skip


@pytest.mark.parametrize("kind", FAITHFUL)
def test_a_user_model_is_cut_exactly(kind: type[UserModel]) -> None:
    model, x_BD = kind(), torch.randn(3, 4)
    split = SplitModel(model, "first")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)  # nothing was frozen when the model was cut
        model.shift.add_(1)
    z = split.head(x_BD)
    before = z.detach().clone()
    expected_BK = model(x_BD)
    assert torch.equal(split.tail(z), expected_BK)
    assert torch.equal(split(x_BD), expected_BK)
    assert torch.equal(z, before)


def test_a_model_that_assigns_attributes_is_left_without_them() -> None:
    model = RemembersFeatures()
    SplitModel(model, "first")
    assert not hasattr(model, "features")


def test_hooks_of_enclosing_modules_do_not_run() -> None:
    model, seen = BranchesInside(), []
    model.body = Slices()
    for module in (model, model.body):
        module.register_forward_hook(lambda *_: seen.append("around"))
    model.body.first.register_forward_hook(lambda *_: seen.append("inside"))
    SplitModel(model, "body.first")(torch.randn(3, 4))
    assert seen == ["inside"]


def test_an_assertion_of_the_model_still_holds() -> None:
    with pytest.raises(AssertionError):
        SplitModel(Asserts(), "first").head(torch.randn(3, 5))


def test_the_message_of_an_input_check_names_no_stand_in() -> None:
    split = SplitModel(architecture("torchvision ViT"), "encoder.layers.encoder_layer_1")
    with pytest.raises(AssertionError, match="Expected 32 but got another"):
        split.head(torch.rand(1, 3, 40, 40))


def test_in_place_arithmetic_keeps_the_type_of_its_left_side() -> None:
    class Accumulates(UserModel):
        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).bfloat16()
            x += self.shift  # float32: out of place this would be float32
            return x

    model, x_BD = Accumulates(), torch.randn(3, 4)
    assert SplitModel(model, "first")(x_BD).dtype == model(x_BD).dtype == torch.bfloat16


REFUSED = {
    "input": (InputUsedTwice, "first", "the input x is used after it; choose a layer through which everything passes"),
    "shape": (ShapeOfTheInput, "first", "item 0 of shape of the input x is used after it"),
    "twice": (CalledTwice, "first", "called 2 times in a forward pass; choose a layer that is called once"),
    "never": (NeverCalled, "first", "never called by itself in a forward pass; choose a layer that is called once"),
    "branch": (Branches, "first", "the forward() of the model itself cannot be followed symbolically"),
    "branch inside": (BranchesInside, "body.first", "the forward() of 'body' cannot be followed symbolically"),
    "branch inside, remedy": (BranchesInside, "body.first", "choose 'body' or a layer outside of it"),
    "tensor": (MakesATensor, "first", "makes a tensor of its own; make that a buffer"),
    "noise": (DrawsNoise, "first", "draws random numbers of its own"),
    "python noise": (SkipsAtRandom, "first", "draws random numbers of its own"),
    "no_grad": (StopsGradients, "first", "switches gradients or autocast"),
    "autocast": (SwitchesAutocastOff, "first", "switches gradients or autocast"),
    "list": (HoldsAList, "layers", "it only holds other modules; choose one of those"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_cut_that_would_not_be_exact_is_refused_with_the_remedy(case: str) -> None:
    kind, layer, message = REFUSED[case]
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        SplitModel(kind(), layer)
    assert str(refusal.value).startswith(f"attack.layer={layer!r} is no place to cut {kind.__name__}: ")


def test_a_list_is_cut_at_its_members() -> None:
    model, x_BD = HoldsAList(), torch.randn(3, 4)
    assert torch.equal(SplitModel(model, "layers.0").head(x_BD), model.layers[0](x_BD))


def test_a_refused_model_is_left_as_it_was() -> None:
    for kind, layer, _ in REFUSED.values():
        model = kind()
        state = [dict(vars(module)) for module in model.modules()]
        with pytest.raises(UserError):
            SplitModel(model, layer)
        assert [dict(vars(module)) for module in model.modules()] == state


def test_a_layer_inside_a_residual_block_is_refused_and_the_block_offered() -> None:
    with pytest.raises(UserError) as refusal:
        SplitModel(Classifier(SmallResNet(3), (0.5,) * 3, (0.2,) * 3, architecture="resnet8"), "layer1.0.conv1")
    assert str(refusal.value) == (
        "attack.layer='layer1.0.conv1' is no place to cut resnet8: the output of 'relu' is used after it; "
        "cut after the module around it, 'layer1.0'"
    )


def test_a_layer_inside_a_dense_block_is_refused_and_the_whole_block_offered() -> None:
    with pytest.raises(UserError, match=r"cut after the module around it, 'features\.denseblock1'"):
        SplitModel(architecture("densenet121"), "features.denseblock1.denselayer2.conv1")


def test_a_layer_that_does_not_exist_is_refused_with_what_does() -> None:
    with pytest.raises(UserError) as refusal:
        SplitModel(SmallResNet(3), "layer9", place="defense.layer")
    assert str(refusal.value) == (
        "defense.layer='layer9' is not a module of SmallResNet; choose one of conv1, bn1, relu, layer1, layer2, "
        "layer3, avgpool, flatten, fc, or a module inside one of them"
    )
    with pytest.raises(UserError, match=r"did you mean features\.transition1"):
        SplitModel(architecture("densenet121"), "feature.transition1")


@pytest.mark.parametrize("layer", ["", "backbone.", "layer1."])
def test_an_empty_name_is_no_layer(layer: str) -> None:
    with pytest.raises(UserError, match="is not a module of"):
        SplitModel(Classifier(SmallResNet(3), (0.5,) * 3, (0.2,) * 3), layer)


def test_a_layer_that_returns_several_tensors_is_refused() -> None:
    with pytest.raises(UserError, match=r"attack\.layer='recurrent' of ReturnsTwo returns a tuple, not one tensor"):
        SplitModel(ReturnsTwo(), "recurrent").head(torch.randn(2, 3, 4))


def test_a_model_that_returns_several_tensors_is_refused() -> None:
    class Auxiliary(UserModel):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.first(x)
            return self.second(x), x

    with pytest.raises(UserError, match="Auxiliary returns a tuple; a model must return its logits as one tensor"):
        SplitModel(Auxiliary(), "first")(torch.randn(2, 4))


def test_a_shared_layer_is_found_under_each_of_its_names() -> None:
    class Shares(UserModel):
        def __init__(self) -> None:
            super().__init__()
            self.alias = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.alias(x))

    model, x_BD = Shares(), torch.randn(2, 4)
    assert torch.equal(SplitModel(model, "alias").head(x_BD), model.first(x_BD))
