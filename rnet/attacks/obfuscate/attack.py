"""Obfuscation: the victim with its channels in another order and on another scale, and the same logits.

A control of white-box defences: whatever compares activations channel by channel is fooled without any training, and
whatever asks for answers is not. Shapes: B images, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnet.attacks.base import Attack, AttackContext, Suspect
from rnet.attacks.cost import cost
from rnet.attacks.obfuscate.channels import find_groups
from rnet.attacks.obfuscate.config import ObfuscateConfig
from rnet.attacks.obfuscate.groups import Group, free_groups, permute, rescale
from rnet.data.images import Dataset
from rnet.draws import derive_seed
from rnet.errors import UserError
from rnet.models.classifier import Classifier

TOLERANCE = 1e-4
"""Largest change of a logit, relative to the largest logit where that is above 1."""
_IMAGES = 8
_TRACED = 2  # not 1: an axis of samples must not pass for one of channels


class Obfuscate(Attack):
    """Changes weights, never the function."""

    config: ObfuscateConfig

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:
        """Refuses an architecture of which nothing can be permuted or rescaled."""
        self._groups(blueprint.eval(), dataset.substitute.pixels(torch.arange(_TRACED)))

    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """A copy of the victim, changed; refused if a logit moved by more than TOLERANCE on a few images."""
        model = context.copy_of_victim()
        x_BCHW = dataset.substitute.pixels(torch.arange(min(_IMAGES, len(dataset.substitute))))
        counts = self.change(model, x_BCHW, derive_seed(context.seed, self.name))
        context.run.say(", ".join(f"{count} channels {done}" for done, count in counts.items()))
        return Suspect(model=model, derived=True, cost=cost())

    def change(self, model: nn.Module, x_BCHW: Tensor, seed: int) -> dict[str, int]:
        """Changes a frozen model on the CPU in place; how many channels were permuted and rescaled.

        x_BCHW: images as the model takes them, on which the logits are compared.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            before_BK = model.eval()(x_BCHW)
        counts = {}
        for done, groups in self._groups(model, x_BCHW[:_TRACED]).items():
            for group in groups:
                if done == "permuted":
                    permute(group, generator)
                else:
                    rescale(group, self.config.rescale, generator)
            counts[done] = sum(group.size for group in groups)
        with torch.no_grad():
            moved = (model(x_BCHW) - before_BK).abs().max().item()
        allowed = TOLERANCE * max(1.0, before_BK.abs().max().item())
        if not moved <= allowed:
            raise UserError(
                f"attack {self.name}: a logit moved by {moved:.2g}, above {allowed:.2g}: that is another function; "
                "set attack.permute=false, or a smaller attack.rescale"
            )
        return counts

    def _groups(self, model: nn.Module, x_BCHW: Tensor) -> dict[str, list[Group]]:
        """What is to be changed, by what happens to it: permuted, rescaled."""
        wanted = {"permuted": self.config.permute, "rescaled": self.config.rescale > 1}
        found = {}
        for done in (done for done, asked in wanted.items() if asked):
            found[done] = free_groups(find_groups(model, x_BCHW, scaling=done == "rescaled"))
            if not found[done]:
                setting = "attack.permute=false" if done == "permuted" else "attack.rescale=1"
                raise UserError(
                    f"attack {self.name}: no channels of this architecture can be {done} with its function kept; "
                    f"set {setting} or choose another attack"
                )
        return found
