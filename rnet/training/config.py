"""How a victim is trained. No torch here, as in every configuration."""

from __future__ import annotations

from dataclasses import dataclass

from rnet.config.checks import check_at_least_0, check_at_least_1, check_positive, check_share


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A victim's training recipe: SGD with Nesterov momentum and a one-cycle learning rate."""

    name: str = "default"
    """The recipe's name; recorded only."""
    seed: int | None = None
    """Initial weights, order and augmentation; None takes the run's seed."""
    epochs: int = 10
    """Passes over the training part."""
    batch_size: int = 128
    """Global batch size."""
    learning_rate: float = 0.1
    """Peak of the one-cycle schedule."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 5e-4
    """On all parameters."""
    clip_norm: float | None = None
    """Largest l2 norm of all gradients together; None does not clip."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    crop_padding: int = 2
    """Random crops of the image padded by so many pixels; 0 for none."""

    def check(self) -> None:
        """Raises UserError for sizes, rates and shares out of range."""
        check_at_least_1("train", self, "epochs", "batch_size")
        check_positive("train", self, "learning_rate")
        check_at_least_0("train", self, "weight_decay", "crop_padding")
        check_share("train", self, "momentum", "label_smoothing")
        if self.clip_norm is not None:
            check_positive("train", self, "clip_norm")
