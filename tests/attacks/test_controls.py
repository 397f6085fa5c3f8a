"""The controls: suspects with the victim's logits and other activations, with other logits and the same labels, and
with rounded weights."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
import torch.ao.quantization as ao
from torch import Tensor, nn
from torchvision import models

from rnet.attacks.obfuscate.attack import TOLERANCE, Obfuscate
from rnet.attacks.obfuscate.config import ObfuscateConfig
from rnet.attacks.quantise.attack import Quantise, int8_per_channel
from rnet.attacks.quantise.config import QuantiseConfig
from rnet.attacks.rescale_logits.attack import RescaleLogits
from rnet.attacks.rescale_logits.config import RescaleLogitsConfig
from rnet.cutting.split import SplitModel
from rnet.defenses.deepjudge.config import DeepJudgeConfig
from rnet.defenses.deepjudge.defense import DeepJudge
from rnet.errors import UserError
from tests.cutting.architectures import CASES, architecture, images
from tests.defenses.tiny import tiny_dataset, tiny_model

PERMUTE, RESCALE = ObfuscateConfig(), ObfuscateConfig(permute=False, rescale=4.0)
SEED = 5


def small_vgg() -> nn.Module:
    plan: list[str | int] = [8, 8, "M", 16, 16, "M", 16, "M", 16, "M", 16, "M"]
    vgg = models.VGG(models.vgg.make_layers(plan, batch_norm=True), num_classes=5)
    vgg.classifier = nn.Sequential(nn.Linear(16 * 49, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 5))
    return vgg


SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "resnet18": (
        partial(models.ResNet, models.resnet.BasicBlock, [2, 2, 1, 1], num_classes=5),
        ("maxpool", "layer1", "layer2", "layer3", "layer4"),
    ),
    "resnet50": (
        partial(models.ResNet, models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=5, width_per_group=4),
        ("maxpool", "layer1", "layer2", "layer3", "layer4"),
    ),
    "vgg19_bn": (small_vgg, ("features.6", "features.13", "features.17", "features.21")),
    "mobilenet_v2": (
        partial(models.MobileNetV2, width_mult=0.1, num_classes=5),
        tuple(f"features.{n}" for n in (3, 6, 10, 16, 18)),
    ),
    "densenet121": (
        partial(models.DenseNet, growth_rate=4, block_config=(2, 2, 2, 2), num_init_features=8, num_classes=5),
        ("features.pool0", *(f"features.transition{n}" for n in (1, 2, 3)), "features.norm5"),
    ),
}
"""The families, narrow and shallow: what builds them, and their usual cuts; others as in CASES."""


@cache
def built(name: str) -> nn.Module:
    """A network in float64 whose norms have seen images and whose weights are none of those a constructor writes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = SMALL[name][0]() if name in SMALL else copy.deepcopy(architecture(name))
    model.double().train()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        model(pixels(name))
    return model.eval()


def pixels(name: str) -> Tensor:
    """Four images, normalised, in float64."""
    return images(name if name in CASES else "resnet8", 4).double()


def lived_in(name: str) -> nn.Module:
    return copy.deepcopy(built(name))


def distance(one: nn.Module, other: nn.Module, layer: str, x_BCHW: Tensor) -> float:
    """How far the activations of a layer are apart, relative to their own size."""
    with torch.no_grad():
        a, b = (SplitModel(model, layer).head(x_BCHW) for model in (one, other))
    return ((a - b).norm() / a.norm()).item()


@pytest.mark.parametrize(
    ("name", "config", "moved"),
    [
        ("resnet8", PERMUTE, 4),
        ("resnet8", RESCALE, 4),
        ("resnet18", PERMUTE, 5),
        ("resnet50", RESCALE, 5),
        ("vgg19_bn", PERMUTE, 4),
        ("vgg19_bn", RESCALE, 4),
        ("mobilenet_v2", PERMUTE, 5),
        ("mobilenet_v2", RESCALE, 4),  # the last block ends in a ReLU6, through which no factor passes
        ("densenet121", PERMUTE, 5),
        ("densenet121", RESCALE, 1),  # a batch norm reads all but the last cut
        ("torchvision ViT", PERMUTE, 5),
        ("torchvision ViT", RESCALE, 0),  # only what is between a norm and its readers
        ("timm ViT", PERMUTE, 5),
        ("timm ViT, average pooling", PERMUTE, 2),
        ("convnext", PERMUTE, 0),  # hidden units only
    ],
)
def test_obfuscation_keeps_every_logit_and_moves_the_activations(
    name: str, config: ObfuscateConfig, moved: int
) -> None:
    victim, x_BCHW = lived_in(name), pixels(name)
    suspect = copy.deepcopy(victim)
    counts = Obfuscate(config).change(suspect, x_BCHW, SEED)
    assert min(counts.values()) > 1
    with torch.no_grad():
        torch.testing.assert_close(suspect(x_BCHW), victim(x_BCHW), rtol=1e-9, atol=1e-9)
    far = [
        layer
        for layer in (SMALL[name][1] if name in SMALL else CASES[name].layers)
        if distance(victim, suspect, layer, x_BCHW) > 0.1
    ]
    assert len(far) == moved, far
    assert any(not torch.equal(a, b) for a, b in zip(victim.parameters(), suspect.parameters(), strict=True))


def test_attention_heads_and_hidden_units_change_places() -> None:
    victim = lived_in("torchvision ViT")
    suspect = copy.deepcopy(victim)
    Obfuscate(PERMUTE).change(suspect, pixels("torchvision ViT"), seed=0)
    block = "encoder.layers.encoder_layer_{}"
    heads = []
    for number in range(12):
        before, after = (m.get_submodule(block.format(number)) for m in (victim, suspect))
        for name in ("mlp.0.bias", "self_attention.in_proj_bias"):
            a, b = before.get_parameter(name), after.get_parameter(name)
            assert torch.equal(a.sort().values, b.sort().values)
        assert not torch.equal(before.get_parameter("mlp.0.bias"), after.get_parameter("mlp.0.bias"))
        heads.append(not torch.equal(*(m.get_parameter("self_attention.in_proj_bias") for m in (before, after))))
    assert 0 < sum(heads) < 12  # of two heads, half of the permutations are the identity


def test_the_seed_decides_the_permutation() -> None:
    states = []
    for seed in (1, 1, 2):
        model = lived_in("resnet8")
        Obfuscate(dataclasses.replace(PERMUTE, rescale=2.0)).change(model, pixels("resnet8"), seed)
        states.append(model.get_parameter("conv1.weight"))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


class Between(nn.Module):
    """Two convolutions with something between that may or may not tell channels apart."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)
        self.between = between

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.second(self.between(self.first(x_BCHW)))
        return self.fc(self.third(x_BCHW.relu()).mean((2, 3)))


@pytest.mark.parametrize(
    ("between", "permuted", "rescaled"),
    [
        (lambda x: x, 24, 24),
        (lambda x: x * 2, 24, 16),
        (lambda x: x + 1, 24, 16),
        (torch.sigmoid, 24, 16),
        (lambda x: x.reshape(x.shape[0], 8, -1).reshape(x.shape), 24, 24),
        (lambda x: x.reshape(2 * 8, 1, 4, 4).reshape(x.shape), 16, 16),
        (lambda x: x.flip(1), 16, 16),
        (lambda x: x.cumsum(1), 16, 16),
        (lambda x: x.softmax(1), 16, 16),
        (lambda x: torch.cat([x[:, :4], x[:, 4:].relu()], 1), 16, 16),
        (lambda x: x.transpose(2, 3), 24, 24),
        (lambda x: x + x.mean(1, keepdim=True), 16, 16),
        (lambda x: x * x.mean((2, 3), keepdim=True), 24, 16),
    ],
)
def test_channels_that_something_tells_apart_stay(
    between: Callable[[Tensor], Tensor], permuted: int, rescaled: int
) -> None:
    torch.manual_seed(0)
    x_BCHW = torch.randn(2, 3, 4, 4)
    both = Obfuscate(ObfuscateConfig(rescale=3.0)).change(Between(between), x_BCHW, SEED)
    assert both == {"permuted": permuted, "rescaled": rescaled}


def test_a_layer_that_is_called_twice_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same, self.fc = nn.Linear(6, 6), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.same(self.same(x.flatten(1)).relu()).relu())

    with pytest.raises(UserError, match=r"no channels .* can be permuted .* attack.permute=false or choose another"):
        Obfuscate(PERMUTE).change(Twice(), torch.randn(4, 6), SEED)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda self, x: self.fc(x.flatten(1)), "no channels of this architecture can be permuted"),
        (lambda self, x: self.fc(x.flatten(1)) if x.sum() > 0 else x, "cannot be traced by torch.fx"),
    ],
)
def test_an_architecture_of_which_nothing_is_known_is_refused(
    forward: Callable[[nn.Module, Tensor], Tensor], message: str
) -> None:
    model = type("Odd", (nn.Module,), {"forward": forward})()
    model.fc = nn.Linear(6, 5)
    with pytest.raises(UserError, match=message):
        Obfuscate(PERMUTE).change(model, torch.ones(4, 6), SEED)


def test_a_change_of_the_function_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(group: object, generator: torch.Generator) -> None:
        with torch.no_grad():
            group.places[0].tensor.mul_(1 + 100 * TOLERANCE)  # type: ignore[attr-defined]

    monkeypatch.setattr("rnet.attacks.obfuscate.attack.permute", careless)
    with pytest.raises(UserError, match="a logit moved by"):
        Obfuscate(PERMUTE).change(Between(torch.relu), torch.randn(4, 3, 4, 4), SEED)


@pytest.mark.parametrize("config", [PERMUTE, RESCALE], ids=["permuted", "rescaled"])
def test_white_box_metrics_see_an_obfuscated_victim_and_black_box_ones_do_not(config: ObfuscateConfig) -> None:
    victim, dataset = tiny_model(seed=0), tiny_dataset(seed=0)
    small = DeepJudgeConfig(
        layer="block1", num_seeds=9, min_seeds=2, num_fuzz_seeds=3, max_steps=20, threshold_factor=1.6, step_size=0.05
    )
    made = DeepJudge(small).extract(victim, dataset, seed=0)
    suspect = copy.deepcopy(victim)
    Obfuscate(config).change(suspect, dataset.test.pixels(torch.arange(8)), SEED)
    own, scores = (DeepJudge(small).verify(made, model) for model in (victim, suspect))
    assert own["lod"] == own["lad"] == 0
    assert scores["lod"] > 0.1
    assert scores["lad"] > 0.1
    assert scores["robd"] == 0
    assert scores["jsd"] == pytest.approx(0, abs=1e-6)


# --- logits and weights


@pytest.mark.parametrize("name", ["resnet8", "vgg19_bn", "mobilenet_v2", "torchvision ViT"])
def test_rescaled_logits_are_the_victims_divided_by_the_temperature(name: str) -> None:
    victim, x_BCHW = lived_in(name), pixels(name)
    suspect = copy.deepcopy(victim)
    RescaleLogits(RescaleLogitsConfig(temperature=2.5)).change(suspect, x_BCHW)
    with torch.no_grad():
        torch.testing.assert_close(suspect(x_BCHW), victim(x_BCHW) / 2.5)


def test_logits_that_no_layer_makes_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Softmax(1))
    attack = RescaleLogits(RescaleLogitsConfig())
    with pytest.raises(UserError, match="the last layer of this architecture is not what makes its logits"):
        attack.change(model, torch.randn(4, 3, 2, 2))
    with pytest.raises(UserError, match="no linear layer and no convolution"):
        attack.change(nn.Flatten(), torch.randn(4, 3, 2, 2))


@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (5, 7), (4, 1, 3, 3)])
def test_int8_weights_are_those_of_torchs_observer(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    weight[1] *= 50
    weight[2] = 0
    observer = ao.PerChannelMinMaxObserver(ch_axis=0, dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    observer(weight)
    scale_C, zero_C = observer.calculate_qparams()
    assert not zero_C.any()
    scale = scale_C.view(-1, *[1] * (weight.dim() - 1))
    expected = (weight / scale).round().clamp(-128, 127) * scale
    torch.testing.assert_close(int8_per_channel(weight), expected, rtol=1e-6, atol=0)


def test_int8_rounds_every_matrix_and_nothing_else() -> None:
    victim = copy.deepcopy(architecture("torchvision ViT")).eval()
    suspect = copy.deepcopy(victim)
    Quantise(QuantiseConfig()).change(suspect)
    changed = {
        name
        for (name, a), b in zip(victim.named_parameters(), suspect.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    block = "encoder.layers.encoder_layer_0."
    assert {name for name in changed if name.startswith(block)} == {
        block + name for name in ("self_attention.in_proj_weight", "self_attention.out_proj.weight", "mlp.0.weight",
                                  "mlp.3.weight")
    }  # fmt: skip
    assert {"conv_proj.weight", "heads.head.weight"} <= changed
    for name in changed:
        for row in suspect.get_parameter(name).flatten(1):
            assert len(row.unique()) <= 256


@pytest.mark.parametrize(("weights", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision_rounds_the_whole_state(weights: str, dtype: torch.dtype) -> None:
    victim = lived_in("resnet8").float()
    suspect = copy.deepcopy(victim)
    Quantise(QuantiseConfig(weights=weights)).change(suspect)
    for name, value in suspect.state_dict().items():
        before = victim.state_dict()[name]
        assert torch.equal(value, before.to(dtype).to(before.dtype) if before.is_floating_point() else before), name
    assert not torch.equal(suspect.get_parameter("conv1.weight"), victim.get_parameter("conv1.weight"))


def test_weights_beyond_half_precision_are_refused() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0, 0] = 1e6
    with pytest.raises(UserError, match=r"weight of the victim .* attack.weights=fp16 .* use attack.weights=bf16"):
        Quantise(QuantiseConfig(weights="fp16")).change(model)
    Quantise(QuantiseConfig(weights="bf16")).change(model)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ObfuscateConfig(rescale=0.5), r"attack.rescale=0.5 must be 1 or more"),
        (ObfuscateConfig(rescale=float("inf")), "must be 1 or more, and finite"),
        (ObfuscateConfig(permute=False), "attack.permute=false and attack.rescale=1 change nothing"),
        (QuantiseConfig(weights="int4"), "attack.weights='int4'"),
        (RescaleLogitsConfig(temperature=0), "attack.temperature"),
    ],
)
def test_settings_without_sense_are_refused(config: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.check()  # type: ignore[attr-defined]
