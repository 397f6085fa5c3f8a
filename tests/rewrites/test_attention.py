"""Attention with the tokens where they lie: what MultiheadAttention computes, and nothing of it elsewhere."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import profile
from torchvision.models import VisionTransformer

from rnet.models.config import ModelConfig
from rnet.models.zoo import build_model
from rnet.rewrites.attention import project_as_torch, project_in_place


def attention(*, bias: bool = True, dropout: float = 0.0, heads: int = 3, **settings: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(12, heads, dropout=dropout, bias=bias, batch_first=True, **settings).double()
    for parameter in made.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)  # biases start at zero, which would hide one that is forgotten
    return made


def tokens() -> Tensor:
    return torch.randn(4, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_loops(made: nn.MultiheadAttention, x_BNE: Tensor) -> Tensor:
    """Vaswani et al. 2017, section 3.2.2, a sample, a head and a token at a time."""
    E, D = made.embed_dim, made.head_dim
    nothing = torch.zeros(3 * E, dtype=x_BNE.dtype)
    bias = nothing if made.in_proj_bias is None else made.in_proj_bias
    last = nothing[:E] if made.out_proj.bias is None else made.out_proj.bias
    rows = []
    for x_NE in x_BNE:
        q, k, v = (
            made.in_proj_weight[n * E : (n + 1) * E] @ x_NE.T + bias[n * E : (n + 1) * E, None] for n in range(3)
        )
        for token in range(x_BNE.shape[1]):
            heads = []
            for head in range(made.num_heads):
                own = slice(head * D, (head + 1) * D)
                share_N = torch.softmax(k[own].T @ q[own, token] / math.sqrt(D), dim=0)
                heads.append(v[own] @ share_N)
            rows.append(made.out_proj.weight @ torch.cat(heads) + last)
    return torch.stack(rows).view_as(x_BNE)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_outputs_and_gradients_equal_loops(bias: bool, frozen: bool) -> None:
    made = attention(bias=bias)
    x, dy = tokens().requires_grad_(True), tokens().flip(0)
    inputs = [x, *made.parameters()]
    expected = by_loops(made, x)
    slopes = torch.autograd.grad(expected, inputs, dy)
    assert project_in_place(made) == 1
    made.requires_grad_(not frozen)
    found, weights = made(x, x, x, need_weights=False)
    assert weights is None
    torch.testing.assert_close(found, expected)
    wanted = inputs[:1] if frozen else inputs
    for own, slope in zip(torch.autograd.grad(found, wanted, dy), slopes, strict=False):
        torch.testing.assert_close(own, slope)


def test_dropout_draws_what_the_original_draws() -> None:
    original = attention(dropout=0.3)
    project_in_place(changed := copy.deepcopy(original))
    x, found = tokens(), []
    for made in (original, changed):
        torch.manual_seed(7)
        y, _ = made(x, x, x, need_weights=False)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(made.parameters()))])
    torch.testing.assert_close(found[1], found[0])
    assert not torch.allclose(found[0][0], original.eval()(x, x, x, need_weights=False)[0]), "there is dropout"


@pytest.mark.parametrize(
    ("settings", "cross", "named"),
    [
        ({}, False, {}),
        ({}, False, {"need_weights": True, "average_attn_weights": False}),
        ({}, True, {"need_weights": False}),
        ({}, False, {"need_weights": False, "attn_mask": torch.eye(5, dtype=torch.bool)}),
        ({}, False, {"need_weights": False, "is_causal": True, "attn_mask": torch.ones(5, 5).triu(1).bool()}),
        ({}, False, {"need_weights": False, "key_padding_mask": torch.arange(20).view(4, 5) % 5 == 4}),
        ({"add_zero_attn": True}, False, {"need_weights": False}),
        ({"add_bias_kv": True}, False, {"need_weights": False}),
        ({"kdim": 12, "vdim": 12}, False, {"need_weights": False}),
    ],
)
def test_every_other_call_is_the_original(settings: dict[str, Any], cross: bool, named: dict[str, Any]) -> None:
    original = attention(**settings)
    project_in_place(changed := copy.deepcopy(original))
    x = tokens()
    other = x.flip(1)[:, :3] if cross else x
    for own, expected in zip(changed(x, other, other, **named), original(x, other, other, **named), strict=True):
        assert (own is None) == (expected is None)
        if own is not None:
            torch.testing.assert_close(own, expected)


def test_a_single_sequence_and_no_samples_pass() -> None:
    original = attention()
    project_in_place(changed := copy.deepcopy(original))
    for x in (tokens()[0], tokens()[:0]):
        torch.testing.assert_close(changed(x, x, x, need_weights=False), original(x, x, x, need_weights=False))


def test_a_second_call_and_subclasses_change_nothing() -> None:
    class Own(nn.MultiheadAttention):
        pass

    made = nn.Sequential(attention(), Own(12, 3, batch_first=True), nn.MultiheadAttention(12, 3))
    assert project_in_place(made) == 1
    assert project_in_place(made) == 0
    assert "forward" not in vars(made[1])
    project_as_torch(made)
    assert not any("forward" in vars(module) for module in made)


def test_a_copy_uses_its_own_weights() -> None:
    project_in_place(made := attention())
    other, x = copy.deepcopy(made), tokens()
    with torch.no_grad():
        other.in_proj_weight.mul_(2)
    assert not torch.allclose(made(x, x, x, need_weights=False)[0], other(x, x, x, need_weights=False)[0])
    assert other.state_dict().keys() == attention().state_dict().keys()


def vit() -> nn.Module:
    torch.manual_seed(0)
    return VisionTransformer(16, 4, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=32, num_classes=5)


@pytest.mark.parametrize("projected", [False, True])
def test_a_frozen_vit_makes_no_product_for_each_token(projected: bool) -> None:
    """The reason for all this: a batched product whose batch are the tokens."""
    model = vit().eval().requires_grad_(False)
    if projected:
        assert project_in_place(model) == 2
    x = torch.rand(3, 3, 16, 16).requires_grad_(True)
    with profile(record_shapes=True) as watched:
        model(x)
    found = [event.input_shapes[0] for event in watched.events() if event.name == "aten::bmm"]
    by_token = [shape for shape in found if shape[0] == 17 and shape[1] == 3]
    assert bool(by_token) != projected


def test_compiled_it_computes_the_same() -> None:
    original = vit().eval()
    project_in_place(changed := copy.deepcopy(original))
    x = torch.rand(3, 3, 16, 16)
    compiled = torch.compile(changed, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), original(x))


def test_vits_are_built_with_it() -> None:
    sizes = {"num_classes": 3, "channels": 3, "image_size": 32}
    model = build_model(ModelConfig(name="vit_b_32"), **sizes, mean_C=[0.5] * 3, std_C=[0.5] * 3, seed=1)
    found = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    assert len(found) == 12
    assert all("forward" in vars(module) for module in found)
    assert project_in_place(model) == 0
