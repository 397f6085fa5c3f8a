"""ZEST's verification done the plain way, one masked image at a time: the yardstick of benchmarks, an oracle for tests.

It shares no code with rnet.defenses.zest.defense, only the layout of its fingerprint.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import nn

from rnet.defenses.base import Fingerprint
from rnet.rewrites.modes import device_of, frozen_eval


def sequential_weights(fingerprint: Fingerprint, model: nn.Module) -> np.ndarray:
    """The model's LIME weights (T, K) float64: image by image, mask by mask, a masked copy and a forward pass of it."""
    tensors = {name: tensor.numpy() for name, tensor in fingerprint.tensors.items()}
    device = device_of(model)
    weights = []
    for n, image_CHW in enumerate(tensors["images_NCHW"]):
        segments_HW, count = tensors["segments_NHW"][n], int(tensors["num_segments_N"][n])
        design, answers = [], []
        for packed_P in tensors["masks_NSP"][n]:
            present = np.array([packed_P[m // 8] >> (m % 8) & 1 for m in range(count)])
            x_CHW = image_CHW.astype(np.float32) / np.float32(255)
            for m in np.flatnonzero(present == 0):
                x_CHW[:, segments_HW == m] = tensors["mean_C"][:, None]
            with frozen_eval(model), torch.no_grad():
                logits_1K = model(torch.from_numpy(x_CHW)[None].to(device))
            design.append(present)
            answers.append(logits_1K[0].double().cpu().numpy())
        weights.append(np.linalg.lstsq(np.array(design, dtype=np.float64), np.array(answers), rcond=None)[0])
    return np.concatenate(weights)


def sequential_verify(fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
    """The distances of `Zest.verify` for a suspect with the victim's classes."""
    victim = fingerprint.tensors["weights_TK"].numpy().reshape(1, -1)
    other = sequential_weights(fingerprint, suspect).reshape(1, -1)
    kinds = {"l1": "cityblock", "l2": "euclidean", "linf": "chebyshev", "cosine": "cosine"}
    return {name: float(cdist(victim, other, kind)[0, 0]) for name, kind in kinds.items()}
