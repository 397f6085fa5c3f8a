"""Attention of torch's MultiheadAttention, with the tokens projected where they lie.

torch transposes them first. Of tokens turned around and weights that are frozen, as in the lower level of an attack, it
then makes a small product for each token, which nearly doubles the time of a ViT-B/16's block (batch 2, 2 cores). It
also reads the weights of the output's projection past that module, where ZeRO-3 has not gathered them.

Shapes: B samples, N tokens, S tokens attended to; H heads of D channels each.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from rnet.rewrites.forwards import has_own_forward, replace_forward, restore_forward


def project_in_place(model: nn.Module) -> int:
    """Gives a model's attention modules a forward pass that leaves the tokens in their order; returns how many.

    The same function up to rounding. Only attention of a batch that asks for no weights and has no masks, as in ViTs,
    changes; names, parameters and state dicts do not.
    """
    found = [module for module in model.modules() if _is_usual(module)]
    for attention in found:
        replace_forward(attention, _forward)
    return len(found)


def project_as_torch(model: nn.Module) -> None:
    """Undoes project_in_place."""
    restore_forward(model, _forward)


def _is_usual(module: nn.Module) -> bool:
    return (
        type(module) is nn.MultiheadAttention
        and not has_own_forward(module)
        and module.batch_first
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )


def _forward(
    self: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any
) -> tuple[Tensor, Tensor | None]:
    """What the forward of an attention module becomes."""
    other = {name: given for name, given in named.items() if given is not None and given is not False}
    if rest or other or named.get("need_weights", True) or query.dim() != 3 or query.is_nested:
        return type(self).forward(self, query, key, value, *rest, **named)
    weight, bias = self.in_proj_weight, self.in_proj_bias
    if query is key is value:
        projected = F.linear(query, weight, bias).chunk(3, dim=-1)
    else:  # so it is with ZeRO-3, whose hooks make three of one
        biases = (None, None, None) if bias is None else bias.chunk(3)
        projected = tuple(map(F.linear, (query, key, value), weight.chunk(3), biases))
    q_BHND, k_BHSD, v_BHSD = (part.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for part in projected)
    dropout = self.dropout if self.training else 0.0
    mixed_BHND = F.scaled_dot_product_attention(q_BHND, k_BHSD, v_BHSD, dropout_p=dropout)
    return self.out_proj(mixed_BHND.transpose(1, 2).flatten(2)), None
