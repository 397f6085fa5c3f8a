"""Knockoff Nets' hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass

from rnet.attacks.config import SGDConfig
from rnet.config.checks import check_at_least_1, check_names, check_positive
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class KnockoffConfig(SGDConfig):
    """Defaults are those of the authors' code."""

    name: str = "knockoff"
    """The attack's name."""
    queries: int | None = None
    """The budget: how many images the victim is asked about, each once; null for all that the attacker has."""
    strategy: str = "random"
    """Which images those are: random, or adaptive (a bandit learns which groups of images teach it most)."""
    answers: str = "posteriors"
    """What the victim answers: posteriors (probabilities of all classes) or labels."""
    epochs: int = 100
    """Passes over the images that were asked about."""
    momentum: float = 0.5
    """Of SGD."""
    weight_decay: float = 5e-4
    """On all parameters."""
    learning_rate: float = 0.01
    """At the start."""
    decay_every: int = 60
    """The learning rate is multiplied by 0.1 every so many epochs."""
    groups: str = "clusters"
    """With strategy=adaptive, what the bandit chooses among: clusters (of the images' pixels), or labels (the classes
    of the data set that the attacker's images come from)."""
    clusters: int | None = None
    """How many clusters; null for as many as the victim has classes."""
    round_size: int = 8
    """With strategy=adaptive, how many images are asked about between two looks at the rewards."""

    def steps(self, images: int) -> int:
        """As many as the epochs take, and at least one."""
        return max(1, round(self.epochs * images / self.batch_size))

    def check(self) -> None:
        """Also refuses sizes below 1, unknown words, and a budget that exceeds the images or leaves no choice."""
        super().check()
        if self.augment is not None:
            raise UserError(
                f"attack.augment={self.augment} does not go with attack=knockoff, which asks about each image once, as "
                "it is; take it out"
            )
        check_at_least_1("attack", self, "epochs", "decay_every")
        check_names("attack.strategy", [self.strategy], "random", "adaptive")
        check_names("attack.answers", [self.answers], "posteriors", "labels")
        check_names("attack.groups", [self.groups], "clusters", "labels")
        if self.queries is not None:
            check_positive("attack", self, "queries")
            if self.queries > self.substitute_size:
                raise UserError(
                    f"attack.queries={self.queries} is more than attack.substitute_size={self.substitute_size}, and no "
                    "image is asked about twice; raise the latter"
                )
        if self.strategy == "random":
            return
        if self.queries is None or self.queries == self.substitute_size:
            raise UserError(
                f"attack.strategy=adaptive chooses among more images than it asks about; set attack.queries below "
                f"attack.substitute_size={self.substitute_size}"
            )
        if self.round_size < 2:
            raise UserError(f"attack.round_size={self.round_size} must be at least 2: batch norm needs more than one")
        if self.clusters is not None and not 2 <= self.clusters <= self.substitute_size:
            raise UserError(
                f"attack.clusters={self.clusters} must be at least 2 and at most attack.substitute_size="
                f"{self.substitute_size}"
            )
