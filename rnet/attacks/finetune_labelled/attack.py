"""Fine-tuning as RemovalNet's authors released it: on the victim's labelled training images."""

from __future__ import annotations

from torch import nn

from rnet.attacks.finetune.attack import last_share
from rnet.attacks.finetune_labelled.config import FineTuneLabelledConfig
from rnet.attacks.labelled import LabelledAttack


class FineTuneLabelled(LabelledAttack):
    """The victim trained on, all of it or its last tensors."""

    config: FineTuneLabelledConfig

    def trained(self, surrogate: nn.Module) -> list[nn.Parameter]:
        """The last int(fraction * number) parameter tensors."""
        return last_share(surrogate, self.config.fraction)
