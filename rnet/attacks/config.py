"""What the configurations of attacks have in common. No torch here, as in every configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rnet.config.checks import check_at_least_0, check_at_least_1, check_names, check_positive, check_share
from rnet.config.component import ComponentConfig
from rnet.errors import UserError

_SET = {"hashed_if_set": True}
_CROP_PADDING = 2


class AttackConfig(ComponentConfig):
    """Base of every attack's configuration dataclass, which declares as fields what it has of these."""

    baseline: ClassVar[bool] = False
    """Whether tables give other attacks' distances as ratios to this one's."""
    seed: int | None = None
    """What its randomness comes from; None takes the run's seed."""
    batch_size: int | None = None
    """Global batch size, which processes share; None if it takes no optimizer steps."""

    @property
    def uses_substitutes(self) -> bool:
        """Whether it takes images of the attacker's; a plugin that does declares substitute_size."""
        return hasattr(self, "substitute_size")


@dataclass(frozen=True, kw_only=True)
class SGDConfig(AttackConfig):
    """Of an attack that trains a network by SGD on images that the attacker has."""

    seed: int | None = None
    """Which images, in which order, and noise; None takes the run's seed."""
    substitute_size: int = 400
    """How many unlabelled images the attacker has."""
    batch_size: int = 64
    """Global batch size."""
    learning_rate: float = 0.01
    """Start of the cosine schedule, which ends at 0."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 1e-4
    """On all trained parameters."""
    clip_norm: float | None = None
    """Largest l2 norm of all gradients together; None does not clip."""
    augment: list[str] | None = field(default=None, metadata=_SET)
    """How its images are varied, any of flip (mirrored half of the time) and crop (moved at random, as crop_padding
    says); null mirrors them where a mirrored image is still one of its class. Of mirrored images the victim is asked
    once, of cropped ones in every batch."""
    crop_padding: int = field(default=_CROP_PADDING, metadata=_SET)
    """With augment=crop: by how many pixels images are padded with black before a window of their size is cut out."""

    def steps(self, images: int) -> int:
        """How many optimizer steps are taken on so many images."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises UserError for a size or rate that is not above 0, and for an augmentation that is not known."""
        check_positive("attack", self, "substitute_size", "batch_size", "learning_rate")
        check_names("attack.augment", self.augment or [], "flip", "crop")
        check_at_least_1("attack", self, "crop_padding")
        if self.crop_padding != _CROP_PADDING and "crop" not in (self.augment or []):
            raise UserError(
                f"attack.crop_padding={self.crop_padding} has no effect without attack.augment=crop; set both"
            )


@dataclass(frozen=True, kw_only=True)
class SubstituteConfig(SGDConfig):
    """Of an attack that trains for so many steps, as a rule a copy of the victim on images that it has labelled."""

    iterations: int = 500
    """Optimizer steps."""

    def steps(self, images: int) -> int:
        """As set, however many images there are."""
        return self.iterations

    def check(self) -> None:
        """Also refuses a number of steps that is not above 0."""
        check_positive("attack", self, "iterations")
        super().check()


@dataclass(frozen=True, kw_only=True)
class LabelledConfig(SubstituteConfig):
    """Of the baselines of RemovalNet's authors, who train copies on the victim's own labelled training images."""

    labelled: bool = True
    """Whether the attacker has the victim's training images and their labels; false takes substitute_size unlabelled
    images, which the victim labels."""
    iterations: int = 1000
    """Optimizer steps."""

    batch_size: int = 200
    """Global batch size."""
    random_rate: bool = True
    """Whether the learning rate is multiplied by 1 + u, with u in [0, 1) drawn with the seed, as released."""
    momentum: float = 0.0
    """Of SGD."""
    linear_decay: float = 0.01
    """Weight decay of linear layers, weights and biases, on top of weight_decay."""

    @property
    def uses_substitutes(self) -> bool:
        """Only without labels."""
        return not self.labelled

    def check(self) -> None:
        """Also refuses a momentum or decay out of range."""
        super().check()
        check_share("attack", self, "momentum")
        check_at_least_0("attack", self, "weight_decay", "linear_decay")
