"""ZEST's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.config.checks import check_names
from rnet.defenses.config import DefenseConfig
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ZestConfig(DefenseConfig):
    """How ZEST approximates and compares models."""

    name: str = "zest"
    num_images: int = 128
    """Reference images: the first ones of the victim's training part, without augmentation."""
    num_masks: int = 1000
    """Masks per image; the first shows the whole image, in the others each segment is there with probability 1/2."""
    kernel_size: float = 4.0
    """Quickshift: width of the Gaussian of its density estimate, in pixels."""
    max_dist: float = 200.0
    """Quickshift: longest link between a pixel and its parent; higher gives fewer segments."""
    ratio: float = 0.2
    """Quickshift: weight of colour against position, in (0, 1]."""
    align: str = "auto"
    """Matching of classes before comparing: auto (only if their numbers differ), always (as the original), never."""
    released_port: list[str] = field(default_factory=list)
    """Defects of the released port to bring back, for comparison with its numbers: train_mode_verification (batch
    statistics and dropout, for victim and suspect), redraw_masks (masks are drawn anew at verification, so that a
    victim is away from itself), segment_first_three (only the first three images, one per channel, are un-normalised
    before segmentation; the rest are clamped z-scores)."""
    memory_mb: int = field(default=512, metadata={"execution_only": True})
    """Memory for one forward pass, in MiB; decides how many masked images go through the model at once."""

    def check(self) -> None:
        """Raises UserError for sizes and shares out of range, and for names that are not known."""
        for key, least in (("num_images", 1), ("num_masks", 2), ("kernel_size", 1), ("memory_mb", 1)):
            if getattr(self, key) < least:
                raise UserError(f"defense.{key}={getattr(self, key)} is too small; give at least {least}")
        if not 0 < self.ratio <= 1:
            raise UserError(f"defense.ratio={self.ratio} must be above 0 and at most 1")
        if not self.max_dist > 0:
            raise UserError(f"defense.max_dist={self.max_dist} must be above 0")
        check_names("defense.align", [self.align], "auto", "always", "never")
        defects = ("train_mode_verification", "redraw_masks", "segment_first_three")
        check_names("defense.released_port", self.released_port, *defects)
