"""The control: the stolen model used as it is."""

from __future__ import annotations

from rnet.attacks.base import Attack, AttackContext, Suspect
from rnet.attacks.cost import cost
from rnet.attacks.identity.config import IdentityConfig
from rnet.data.images import Dataset


class Identity(Attack):
    """The victim itself as a suspect: every defence must recognise it."""

    config: IdentityConfig

    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """An exact copy of the victim."""
        return Suspect(model=context.copy_of_victim(), derived=True, cost=cost())
