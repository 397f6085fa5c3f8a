"""How a victim is trained. No torch here, as in every configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.config.checks import check_at_least_0, check_at_least_1, check_names, check_positive, check_share
from rnet.errors import UserError

_SET = {"hashed_if_set": True}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A victim's training recipe."""

    name: str = "default"
    """The recipe's name; recorded only."""
    seed: int | None = None
    """Initial weights, order and augmentation; None takes the run's seed."""
    epochs: int = 10
    """Passes over the training part."""
    batch_size: int = 128
    """Global batch size."""
    learning_rate: float = 0.1
    """Its peak."""
    momentum: float = 0.9
    """Of train.optimizer=sgd."""
    weight_decay: float = 5e-4
    """On all parameters."""
    clip_norm: float | None = None
    """Largest l2 norm of all gradients together; None does not clip."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    crop_padding: int = 2
    """Random crops of the image padded by so many pixels; 0 for none."""
    crop_scale: list[float] | None = field(default=None, metadata=_SET)
    """Cut out a random share of the whole image's area between these two and resize it (RandomResizedCrop), e.g.
    [0.08, 1]; None takes the middle square."""
    rand_augment: int = field(default=0, metadata=_SET)
    """Strength of RandAugment's two operations, 0 to 30; 0 for none."""
    mixup: float = field(default=0.0, metadata=_SET)
    """Mix each two images, in a ratio drawn from Beta(mixup, mixup); 0 for none."""
    cutmix: float = field(default=0.0, metadata=_SET)
    """Paste a box of one image into another, over a share drawn from Beta(cutmix, cutmix); 0 for none. With train.mixup
    each step does one of both, with equal chances."""
    accumulate: int = field(default=1, metadata=_SET)
    """Micro-batches of a step, one after the other. The update is that of the whole batch, up to rounding, but for
    networks with batch norm, whose statistics are then of train.batch_size / train.accumulate images."""
    ema: float | None = field(default=None, metadata=_SET)
    """Measure and keep a moving average of the weights in place of the last ones: the share of the average that an
    update leaves, e.g. 0.9999, less in the first updates: (1 + n) / (10 + n) after n; None for no average."""
    ema_steps: int = field(default=1, metadata=_SET)
    """Steps between two updates of the average."""
    optimizer: str = field(default="sgd", metadata=_SET)
    """sgd or adamw."""
    nesterov: bool = field(default=True, metadata=_SET)
    """train.optimizer=sgd: Nesterov's momentum."""
    schedule: str = field(default="one_cycle", metadata=_SET)
    """Of the learning rate: one_cycle; cosine, after train.warmup_epochs; or step, a tenth after each
    train.step_epochs."""
    step_epochs: int = field(default=30, metadata=_SET)
    """train.schedule=step: passes between two falls of the learning rate."""
    warmup_epochs: float = field(default=0.0, metadata=_SET)
    """train.schedule=cosine: passes over which the learning rate rises to its peak."""

    def check(self) -> None:
        """Raises UserError for sizes, rates and shares out of range."""
        check_at_least_1("train", self, "epochs", "batch_size")
        check_positive("train", self, "learning_rate")
        check_at_least_0("train", self, "weight_decay", "crop_padding")
        check_share("train", self, "momentum", "label_smoothing")
        check_names("train.optimizer", [self.optimizer], "sgd", "adamw")
        check_names("train.schedule", [self.schedule], "one_cycle", "cosine", "step")
        check_at_least_0("train", self, "mixup", "cutmix", "rand_augment", "warmup_epochs")
        check_at_least_1("train", self, "accumulate", "ema_steps", "step_epochs")
        if self.warmup_epochs and self.schedule != "cosine":
            raise UserError(
                f"train.warmup_epochs={self.warmup_epochs} needs train.schedule=cosine; one_cycle warms up by itself"
            )
        if self.batch_size % self.accumulate:
            raise UserError(
                f"train.accumulate={self.accumulate} does not divide train.batch_size={self.batch_size}; "
                f"choose a divisor"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise UserError(f"train.ema={self.ema} must be above 0 and below 1, e.g. 0.9999; null takes no average")
        if self.ema is None and self.ema_steps > 1:
            raise UserError(f"train.ema_steps={self.ema_steps} has no effect without an average; set train.ema")
        if self.crop_scale is not None:
            _check_scale(self.crop_scale, self.crop_padding)
        if self.clip_norm is not None:
            check_positive("train", self, "clip_norm")


def _check_scale(scale: list[float], crop_padding: int) -> None:
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise UserError(
            f"train.crop_scale={scale} must be two shares of the area, 0 < low <= high <= 1, e.g. [0.08, 1]"
        )
    if crop_padding:
        raise UserError(
            f"train.crop_scale={scale} and train.crop_padding={crop_padding} both crop; set train.crop_padding=0"
        )
