"""Evasion probes: a small fixed set of queries that show, while an attack runs, how the fingerprint vanishes.

Half of the queries are test images. The others are these images, moved across the victim's decision boundary: a small
fingerprint of the kind that IPGuard makes, in a few gradient steps. A look costs a forward pass of 2 * PROBE_IMAGES
images.

Shapes: N pairs, Q = 2 N queries (images, then the same moved), K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnet.cutting.split import SplitModel
from rnet.data.images import Part
from rnet.data.pixels import images_at_once
from rnet.defenses.modeldiff.similarity import ddv_similarity, decision_distances
from rnet.models.black_box import map_images
from rnet.parallel.collectives import same_tensor_on_all
from rnet.rewrites.modes import frozen_eval
from rnet.training.fidelity import share_equal
from rnet.training.watching import PROBE_IMAGES, Seen

STEPS = 20
STEP_SIZE = 0.01
"""Of the search: the two say how far an image may be moved, 0.2."""
_LARGEST_LATENTS = 2**24
"""Elements of the victim's features that are kept (64 MiB)."""


class Probe:
    """probe(model): how a model's answers to the fixed queries compare with the victim's; it is as it was after.

    evasion/matching_rate: the share of moved images to which the model gives the victim's label. evasion/ddv:
    the cosine of the two models' decision distance vectors over the pairs of image and moved image (ModelDiff).
    evasion/agreement: the share of images with the victim's label. latent/to_victim: the mean over images of
    |z - z_victim| / |z_victim| at the cut; each image's is in the histogram latent/distances. Called by all processes.
    """

    def __init__(self, queries_QCHW: Tensor, victim: nn.Module, layer: str | None) -> None:
        self.queries_QCHW, self._pairs = queries_QCHW, len(queries_QCHW) // 2
        self._layer = layer
        logits_QK, z = _asked(victim, queries_QCHW, layer)
        self._labels_Q, self._ddv_N = logits_QK.argmax(1), self._ddv(logits_QK)
        self._z = None if z is None or z.numel() > _LARGEST_LATENTS else z[: self._pairs].clone()

    def __call__(self, model: nn.Module) -> Seen:
        if not self._pairs:
            return Seen()
        with torch.no_grad(), frozen_eval(model):
            logits_QK, far_Q = map_images(
                model, lambda index_Q: self._compared(model, index_Q), torch.arange(self.size)
            )
        labels_Q, pairs = logits_QK.argmax(1), self._pairs
        scalars = {
            "evasion/matching_rate": share_equal(labels_Q[pairs:], self._labels_Q[pairs:]),
            "evasion/ddv": ddv_similarity(self._ddv_N, self._ddv(logits_QK)),
            "evasion/agreement": share_equal(labels_Q[:pairs], self._labels_Q[:pairs]),
        }
        far_N = far_Q[:pairs]
        if far_N.isnan().all():
            return Seen(scalars=scalars)
        return Seen(scalars=scalars | {"latent/to_victim": far_N.mean().item()}, histograms={"latent/distances": far_N})

    @property
    def size(self) -> int:
        """How many queries there are."""
        return len(self.queries_QCHW)

    def _ddv(self, logits_QK: Tensor) -> Tensor:
        return decision_distances(logits_QK[: self._pairs], logits_QK[self._pairs :])

    def _compared(self, model: nn.Module, index_Q: Tensor) -> tuple[Tensor, Tensor]:
        """The model's logits for these queries, and how far its features of the images are: NaN where not known."""
        here = index_Q.to(self.queries_QCHW.device)
        logits_QK, z = _asked(model, self.queries_QCHW[here], self._layer if self._z is not None else None)
        far_Q = torch.full((len(index_Q),), torch.nan, device=logits_QK.device)
        if z is None or self._z is None or z.shape[1:] != self._z.shape[1:]:
            return logits_QK, far_Q
        images = here < self._pairs
        wanted = self._z[here[images]].flatten(1)
        far_Q[images] = (z[images].flatten(1) - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-12)
        return logits_QK, far_Q


def make_probe(victim: nn.Module, part: Part, layer: str | None, device: torch.device) -> Probe:
    """Queries from the first images of a part, in the order of the part, and the victim's answers to them.

    victim: a frozen model on the device, which all processes hold whole. layer: where features are compared, None for
    nowhere. A victim that gives all images one class has no boundary: such a probe has no pairs and sees nothing.
    """
    x_NCHW = part.pixels(torch.arange(min(PROBE_IMAGES, len(part))), device)
    with torch.no_grad():
        labels_N = same_tensor_on_all(victim(x_NCHW).argmax(1).cpu()).to(device)
    other_N = _of_another_class(labels_N)
    x_NCHW, target_N = x_NCHW[other_N >= 0], labels_N[other_N[other_N >= 0]]
    moved_NCHW = across_the_boundary(victim, x_NCHW, target_N) if len(x_NCHW) else x_NCHW
    moved_NCHW = same_tensor_on_all(moved_NCHW.cpu()).to(device)  # processes may round in their own ways
    with torch.no_grad():
        return Probe(torch.cat([x_NCHW, moved_NCHW]), victim, layer)


def across_the_boundary(victim: nn.Module, x_NCHW: Tensor, target_N: Tensor) -> Tensor:
    """The images, each moved until the victim gives it the target class and that class leads by a margin.

    Signed steps against the gradient of relu(max of the other logits - Z_target + margin), in [0, 1]: IPGuard's aim in
    few steps. margin: half the lead that the victim's classes have on the images, on average. Large images are moved a
    few at a time, so that a probe does not take more memory than a step.
    """
    with torch.no_grad():
        top_N2 = victim(x_NCHW).float().topk(2, dim=1).values
    margin = (top_N2[:, 0] - top_N2[:, 1]).mean() / 2
    at_once = images_at_once(x_NCHW.shape[-1], 2 * PROBE_IMAGES)
    parts = zip(x_NCHW.split(at_once), target_N.split(at_once), strict=True)
    return torch.cat([_moved(victim, x_MCHW, target_M, margin) for x_MCHW, target_M in parts])


def _moved(victim: nn.Module, x_NCHW: Tensor, target_N: Tensor, margin: Tensor) -> Tensor:
    moved_NCHW = x_NCHW
    for _ in range(STEPS):
        with torch.enable_grad():
            leaf_NCHW = moved_NCHW.detach().requires_grad_(True)
            logits_NK = victim(leaf_NCHW).float()
            own_NK = torch.zeros_like(logits_NK, dtype=torch.bool).scatter_(1, target_N[:, None], True)
            lead_N = logits_NK[own_NK] - logits_NK.masked_fill(own_NK, -torch.inf).amax(1)
            (gradient_NCHW,) = torch.autograd.grad(torch.relu(margin - lead_N).sum(), leaf_NCHW)
        moved_NCHW = (moved_NCHW - STEP_SIZE * gradient_NCHW.sign()).clamp(0, 1)
    return moved_NCHW


def _of_another_class(labels_N: Tensor) -> Tensor:
    """For each image the next one, round the list, that has another label; -1 where there is none."""
    labels, count = labels_N.tolist(), len(labels_N)
    found = [
        next((j % count for j in range(i + 1, i + count) if labels[j % count] != labels[i]), -1) for i in range(count)
    ]
    return torch.tensor(found, dtype=torch.int64, device=labels_N.device)


def _asked(model: nn.Module, x_BCHW: Tensor, layer: str | None) -> tuple[Tensor, Tensor | None]:
    """model(x), float32, and what the layer returned in it; None where that is not to be had."""
    if isinstance(model, SplitModel) and model.layer == layer:
        logits_BK, z = model(x_BCHW, return_features=True)
        return logits_BK.float(), z.float()
    modules = {} if layer is None or "forward" in vars(model) else dict(model.named_modules())
    module = modules.get(f"backbone.{layer}", modules.get(str(layer)))
    if module is None:  # or compiled as a whole, where hooks are not reliable
        return model(x_BCHW).float(), None
    kept: list[Tensor] = []
    hook = module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        logits_BK = model(x_BCHW).float()
    finally:
        hook.remove()
    return logits_BK, kept[0].float() if len(kept) == 1 and isinstance(kept[0], Tensor) else None
