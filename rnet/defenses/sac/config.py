"""SAC's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.config.checks import check_names
from rnet.defenses.config import DefenseConfig
from rnet.defenses.sizes import check_sizes
from rnet.errors import UserError

SAC_INPUTS = ("wrong", "cutmix", "jpeg")


@dataclass(frozen=True, kw_only=True)
class SACConfig(DefenseConfig):
    """What the models are asked."""

    name: str = "sac"
    num_queries: int = 100
    """Images of each kind (100 as in the authors' code); if there are fewer, all, and fewer than 10 are an error."""
    inputs: list[str] = field(default_factory=lambda: list(SAC_INPUTS))
    """Kinds of inputs, each a metric: wrong (images the victim gets wrong), cutmix (test images with a patch of another
    one), jpeg (compressed test images). A kind that is left out has no score."""
    patch: float = 0.2
    """CutMix: share of an image's side from which the patch is made (0.2 in the authors' code): an even number of
    pixels, 2 * (int(patch * side) // 2), and at least one."""
    border: str = "inside"
    """CutMix: a patch that would cross the border is moved "inside", or "cut" there as in the authors' code."""
    jpeg_quality: int = 25
    """JPEG quality of Pillow, 1 to 95. 25 is the first severity of ImageNet-C, 80 that of CIFAR-10-C; the authors
    published no code for this kind."""
    batch_size: int | None = field(default=None, metadata={"execution_only": True})
    """Images sent to a model at once; null for 256 small ones, or fewer large ones."""

    def check(self) -> None:
        """Raises UserError for sizes out of range, and for kinds that are not known or none."""
        check_sizes(self.num_queries, self.batch_size)
        check_names("defense.inputs", self.inputs, *SAC_INPUTS)
        if not self.inputs:
            raise UserError(f"defense.inputs is empty; name at least one of {', '.join(SAC_INPUTS)}")
        if not 0 < self.patch < 1:
            raise UserError(f"defense.patch={self.patch} must lie between 0 and 1")
        check_names("defense.border", [self.border], "inside", "cut")
        if not 1 <= self.jpeg_quality <= 95:
            raise UserError(f"defense.jpeg_quality={self.jpeg_quality} must be 1 to 95")
