"""What little training gives on the user's images: the mark below which an import is doubted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from rnet.data.batches import evaluation_batches
from rnet.data.images import Part
from rnet.models.classifier import Classifier
from rnet.rewrites.modes import device_of, frozen_eval

_SIDE = 12
_BATCH = 128


def reference_predictions(model: Classifier, train: Part, test: Part) -> dict[str, Tensor]:
    """Classes that linear classifiers of `train` give the images of `test`, int64 (N,), by what they look at.

    The network's own features (what its last linear layer takes), where there are some, and the images at 12 pixels a
    side. Ridge regression on standardised features, its penalty chosen by leave-one-out: no seed, few seconds. Of
    images of one class, that class.
    """
    if len(train.labels_N.unique()) < 2:
        return {"the one class": train.labels_N[:1].expand(len(test))}
    found = {}
    seen = [_looked_at(model, part) for part in (train, test)]
    for name in seen[0]:
        classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 5, 11)))
        classifier.fit(seen[0][name], train.labels_N.numpy())
        found[name] = torch.from_numpy(np.asarray(classifier.predict(seen[1][name])))
    return found


@torch.no_grad()
def _looked_at(model: Classifier, part: Part) -> dict[str, np.ndarray]:
    """(N, D) of each kind of feature."""
    features: list[Tensor] = []
    small: list[Tensor] = []
    with frozen_eval(model), _listening(model, features):
        for x_BCHW, _ in evaluation_batches(part, _BATCH, device_of(model)):
            model(x_BCHW)
            small.append(F.adaptive_avg_pool2d(x_BCHW, min(_SIDE, x_BCHW.shape[-1])).flatten(1).cpu())
    found = {"its images": torch.cat(small).double().numpy()}
    if features and len(own := torch.cat(features)) == len(part) and torch.isfinite(own).all():
        found["the network's own features"] = own.double().numpy()
    return found


@contextmanager
def _listening(model: Classifier, features: list[Tensor]) -> Iterator[None]:
    """Inside, what the last linear layer takes is kept."""
    layers = [module for module in model.backbone.modules() if isinstance(module, nn.Linear)]
    if not layers:
        yield
        return
    hook = layers[-1].register_forward_pre_hook(lambda _, given: features.append(given[0].detach().float().cpu()))
    try:
        yield
    finally:
        hook.remove()
