"""Post-training quantisation: the victim with its weights rounded to fewer bits and held as floats again.

The suspect is a state dict of the victim's architecture, so that every defence and device can run it. int8 activations
cannot be kept in one and are left out: a deployed int8 model also rounds those, and lies a little farther away.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnet.attacks.base import Attack, AttackContext, Suspect
from rnet.attacks.cost import cost
from rnet.attacks.quantise.config import QuantiseConfig
from rnet.data.images import Dataset
from rnet.errors import UserError

_MATRICES = (nn.modules.conv._ConvNd, nn.Linear)
_FLOATS = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Quantise(Attack):
    """Rounds weights."""

    config: QuantiseConfig

    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """A copy of the victim, rounded."""
        model = context.copy_of_victim()
        self.change(model)
        return Suspect(model=model, derived=True, cost=cost())

    @torch.no_grad()
    def change(self, model: nn.Module) -> None:
        """Rounds a model's weights in place. Raises UserError for one too large for fp16."""
        if self.config.weights == "int8":
            for weight in matrices(model):
                weight.copy_(int8_per_channel(weight))
            return
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                rounded = value.to(_FLOATS[self.config.weights]).to(value.dtype)
                if not rounded.isfinite().all():
                    raise UserError(
                        f"attack {self.name}: {name} of the victim has values that attack.weights="
                        f"{self.config.weights} cannot hold; use attack.weights=bf16"
                    )
                value.copy_(rounded)


def matrices(model: nn.Module) -> list[Tensor]:
    """What int8 kernels multiply by: the weights of convolutions, linear layers and attention; not their biases."""
    found = [module.weight for module in model.modules() if isinstance(module, _MATRICES)]
    found += [
        module.in_proj_weight
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None
    ]
    return list(dict.fromkeys(found))


def int8_per_channel(weight: Tensor) -> Tensor:
    """The weight on a symmetric grid of 256 values for each index of its first axis: scale = max|w| / 127.5, zero point
    0, rounded half to even, -128 to 127 (torch.ao.quantization's default for per-channel weights)."""
    largest_C = weight.abs().flatten(1).amax(1)
    scale_C = (largest_C / 127.5).clamp_min(torch.finfo(torch.float32).eps)
    zero_C = torch.zeros_like(scale_C, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale_C, zero_C, 0, -128, 127)
