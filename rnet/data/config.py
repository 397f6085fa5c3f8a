"""Which images. No torch here, as in every configuration."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Which images, at what size, and how they are shared out between victim, attacker and measurement."""

    name: str = "digits"
    """The dataset, one of dataset_names()."""
    folder: str | None = None
    """Where the files are; None looks in the dataset's well-known places and in ~/.cache/rnet/data."""
    download: bool = field(default=False, metadata={"execution_only": True})
    """Fetch missing files from the internet, for the datasets that can."""
    image_size: int = 0
    """Height and width in pixels; 0 keeps the native size of datasets whose images are all equal and square."""
    grayscale: bool = False
    """Convert colour images to one channel of luma (ITU-R BT.601)."""
    substitute_pool: int = 500
    """Images taken out of the training images and reserved for the attacker."""
    train_size: int | None = None
    """At most so many images for the victim; None for all that the pool leaves."""
    test_size: int | None = None
    """Images that measure; None for the official test images, or 20 % where a dataset has none of its own."""
    split_seed: int = 0
    """The only thing, besides the sizes, that decides which image is in which part."""
    flip: bool | None = None
    """Whether a mirrored image is still one of its class; None for the dataset's natural answer."""
    max_memory_mb: int = field(default=4096, metadata={"execution_only": True})
    """Image files that decoded take more MiB than this are decoded on demand instead of being kept in memory."""
    attribute: str | None = None
    """CelebA only: the attribute to classify; None for Smiling."""
