"""Dataset Inference's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.defenses.config import DefenseConfig
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DatasetInferenceConfig(DefenseConfig):
    """Hyperparameters of Dataset Inference; the defaults are the authors' for 32 px colour images."""

    name: str = "dataset_inference"
    num_regressor_images: int = 500
    """Training and as many test images whose features the regressor learns from, on the victim."""
    num_suspect_images: int = 500
    """Further training and as many test images on which suspects are tested."""
    num_directions: int = 10
    """Random directions for each of the three norms."""
    max_multiple: int = 50
    """A walk that does not change the label within so many steps ends there."""
    linf_radius: float = 0.005
    """Linf directions are uniform in +- this, in pixel units."""
    l2_std: float = 0.005
    """l2 directions are normal with this standard deviation."""
    l1_scale: float = 0.01
    """l1 directions are Laplace with this scale."""
    hidden_size: int = 100
    """Hidden units of the regressor."""
    learning_rate: float = 0.1
    """Of the regressor's plain gradient descent."""
    regressor_steps: int = 1000
    """Full-batch steps of the regressor."""
    sample_size: int = 10
    """Training and as many test images in one t-test: how many private images the owner reveals."""
    num_draws: int = 100
    """t-tests whose p values are averaged harmonically."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for the walks in MiB; images are walked in as many chunks as that takes, with the same result."""

    def check(self) -> None:
        """Raises UserError for numbers that are too small, and for tests on more images than there are."""
        for key, value in vars(self).items():
            least = {"num_regressor_images": 2, "num_suspect_images": 2, "sample_size": 2}.get(key, 1)
            if isinstance(value, int) and value < least:
                raise UserError(f"defense.{key}={value} must be at least {least}")
            if isinstance(value, float) and not value > 0:
                raise UserError(f"defense.{key}={value} must be greater than 0")
        if self.sample_size > self.num_suspect_images:
            raise UserError(
                f"defense.sample_size={self.sample_size} exceeds "
                f"defense.num_suspect_images={self.num_suspect_images}; lower it"
            )
