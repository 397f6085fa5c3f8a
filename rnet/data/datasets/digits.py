"""digits: 1797 scanned handwritten digits of 8x8 pixels, shipped with scikit-learn; the set for trying things out."""

from __future__ import annotations

import torch

from rnet.data.config import DigitsConfig
from rnet.data.images import RawImages, TensorSource


def load_digits(config: DigitsConfig) -> RawImages:
    """All digits in one pool: 10 classes, one channel; the original grey levels 0..16 become 0..255."""
    from sklearn.datasets import load_digits as load

    digits = load()
    levels_NHW = torch.from_numpy(digits.images)
    return RawImages(
        train=TensorSource((levels_NHW * (255 / 16)).round().to(torch.uint8).unsqueeze(1)),
        train_labels_N=torch.from_numpy(digits.target).long(),
        num_classes=10,
        class_names=tuple("0123456789"),
        flip=False,
    )
