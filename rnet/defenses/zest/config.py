"""ZEST's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.config.checks import check_names, check_product
from rnet.defenses.config import DefenseConfig
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ZestConfig(DefenseConfig):
    """How ZEST approximates and compares models."""

    name: str = "zest"
    num_images: int = 128
    """Reference images, without augmentation."""
    images: str = "train"
    """Which they are: "train", the first ones of the victim's training part, or "test", drawn from the test part."""
    num_masks: int = 1000
    """Masks per image; the first shows the whole image, in the others each segment is there with probability 1/2."""
    masks: str = "stored"
    """Which masks a suspect sees: "stored", the same for all, or "redrawn": one of eight draws, by the labels that it
    gives the reference images. The victim it is compared with has seen the same masks either way."""
    segmented: str = "pixels"
    """What is cut into segments: "pixels" (0 to 255) or "first_three": of normalised images only the first three, one
    for each channel, get their scale back, and all are cut at [0, 1]."""
    kernel_size: float = 4.0
    """Quickshift: width of the Gaussian of its density estimate, in pixels."""
    max_dist: float = 200.0
    """Quickshift: longest link between a pixel and its parent; higher gives fewer segments."""
    ratio: float = 0.2
    """Quickshift: weight of colour against position, in (0, 1]."""
    align: str = "always"
    """Matching of classes before comparing: "always" (as the authors), "auto" (only if their numbers differ), "never".
    It decides by up to 30 % how far unrelated and attacked models look."""
    model_mode: str = "eval"
    """How victim and suspects answer: "eval", or "train" (batch statistics; dropout, with the same draws for both), for
    comparison with programs that forget to leave it; then suspects must show their weights."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for one forward pass, in MiB; decides how many masked images go through the model at once."""

    def check(self) -> None:
        """Raises UserError for sizes and shares out of range, and for names that are not known."""
        for key, least in (("num_images", 1), ("num_masks", 2), ("kernel_size", 1), ("memory_mb", 1)):
            if getattr(self, key) < least:
                raise UserError(f"defense.{key}={getattr(self, key)} is too small; give at least {least}")
        check_product("defense", self, 100_000_000, "num_images", "num_masks")
        if not 0 < self.ratio <= 1:
            raise UserError(f"defense.ratio={self.ratio} must be above 0 and at most 1")
        if not self.max_dist > 0:
            raise UserError(f"defense.max_dist={self.max_dist} must be above 0")
        check_names("defense.images", [self.images], "train", "test")
        check_names("defense.masks", [self.masks], "stored", "redrawn")
        check_names("defense.segmented", [self.segmented], "pixels", "first_three")
        check_names("defense.align", [self.align], "always", "auto", "never")
        check_names("defense.model_mode", [self.model_mode], "eval", "train")
