"""Dataset Inference's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rnet.config.checks import check_names, check_product
from rnet.defenses.config import DefenseConfig
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DatasetInferenceConfig(DefenseConfig):
    """Hyperparameters of Dataset Inference; the defaults are the authors' for 32 px colour images."""

    negative_kind: ClassVar[str] = "disjoint"
    """Which negatives its null hypothesis demands: a model of the victim's private images is a positive."""

    name: str = "dataset_inference"
    num_regressor_images: int = 500
    """Training and as many test images whose features the regressor learns from, on the victim."""
    num_suspect_images: int = 500
    """Further training and as many test images on which suspects are tested."""
    walk: str = "blind"
    """How margins are measured: "blind" (random directions; labels suffice) or "mingd" (along the gradient to other
    classes; needs weights in the victim's architecture)."""
    rows: str = "image"
    """What the regressor sees at once: "image" (all features of one image, as the paper describes) or "notebook" (one
    feature of many images, as the authors' notebook arranges its table). The second makes p values smaller by many
    orders of magnitude, for models that never saw a private image too."""
    num_directions: int = 10
    """Directions for each of the three norms: random ones, or the most target classes of MinGD."""
    max_multiple: int = 50
    """The last multiple of the noise at which a blind walk is asked for its label."""
    capped_multiple: int | None = None
    """Where a blind walk ends that keeps its label up to max_multiple; None: there. The authors' program makes one step
    more."""
    linf_radius: float = 0.005
    """Linf directions are uniform in +- this, in pixel units."""
    l2_std: float = 0.005
    """l2 directions are normal with this standard deviation."""
    l1_scale: float = 0.01
    """l1 directions are Laplace with this scale."""
    mingd_steps: int = 500
    """Most steps of MinGD."""
    mingd_linf_step: float = 0.001
    """Length of a step of MinGD in the Linf norm, in pixel units."""
    mingd_l2_step: float = 0.01
    """The same in the l2 norm."""
    mingd_l1_step: float = 1.0
    """The same in the l1 norm, shared by mingd_pixels pixels."""
    mingd_pixels: int = 100
    """Pixels that an l1 step moves."""
    mingd_gap: float = 0.001
    """A pixel nearer than this to 0 or 1 is not moved there by an l1 step."""
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
        """Raises UserError for numbers too small, tests on more images than there are, and names that are not known."""
        check_product("defense", self, 100_000_000, "num_draws", "sample_size")
        check_names("defense.walk", [self.walk], "blind", "mingd")
        check_names("defense.rows", [self.rows], "image", "notebook")
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
