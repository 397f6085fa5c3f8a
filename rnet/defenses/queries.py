"""What the query-based defences share: asking a model for logits, seeded choices, projected sign-gradient search.

Shapes: N queries, C channels, H height, W width, K classes, M parts of a chunk. Pixels are floats in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rnet.data.pixels import images_at_once
from rnet.defenses.base import Fingerprint
from rnet.draws import derive_seed
from rnet.errors import UserError, first_line
from rnet.models.black_box import BlackBox, map_images
from rnet.rewrites.folding import folded
from rnet.rewrites.memory_format import use_channels_last
from rnet.rewrites.modes import device_of, frozen_eval

LIGHT_MODEL = 1_000_000
FEW_PIXELS = 10 * 16 * 16


def logits_of(model: nn.Module, x_NCHW: Tensor, batch_size: int | None = None, *, role: str = "suspect") -> Tensor:
    """Float32 logits (N, K) of a model in eval mode, without gradient, on the model's device.

    x_NCHW: pixels on any device; processes share them and send them to the model `batch_size` at a time, by default 256
    small ones or fewer large ones. A black box that shows less gives what has the same labels, and the same softmax if
    it shows probabilities. role: what to call the model in errors. Raises UserError when the model does not return
    finite (N, K) logits. The model is left as it was.
    """
    batch_size = batch_size or images_at_once(x_NCHW.shape[-1])
    with frozen_eval(model), torch.no_grad():
        logits_NK = map_images(model, lambda x_MCHW: _forward_in_chunks(model, x_MCHW, batch_size, role), x_NCHW)
    return _require_finite(logits_NK, model, role)


def quick_copy(model: nn.Module) -> nn.Module:
    """A frozen copy for many passes in eval mode: the same function up to rounding, at about half the cost.

    Convolutions have taken over the batch norms after them, and weights lie in the fastest memory format. A black box
    cannot be copied: it is returned.
    """
    if isinstance(model, BlackBox):
        return model
    found = folded(model)
    use_channels_last(found)
    return found


def is_light(model: nn.Module) -> bool:
    """Whether the model's weights fit a core's cache, so that it may be quicker without oneDNN (`without_onednn`)."""
    return sum(parameter.numel() for parameter in model.parameters()) <= LIGHT_MODEL


@contextmanager
def without_onednn(x_NCHW: Tensor, light: bool) -> Iterator[None]:
    """Inside, convolutions are torch's own if x is a few small images on a CPU and the model is light.

    A call of oneDNN has a fixed cost, and one set-up for each new batch size; torch's own were up to 1.8 times as
    quick for ten or fewer images of 16 pixels, and slower than oneDNN's for more, larger, or wider networks.
    """
    few = light and x_NCHW.device.type == "cpu" and x_NCHW[:, 0].numel() <= FEW_PIXELS
    before = bool(torch.backends.mkldnn.enabled)
    torch.backends.mkldnn.enabled = before and not few  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before  # type: ignore[assignment]


def train_mode_logits(
    model: nn.Module, x_NCHW: Tensor, batch_size: int = 256, *, seed: int, role: str = "suspect"
) -> Tensor:
    """Logits (N, K) of a model in train mode: batch statistics and dropout, so a query's answer depends on its batch.

    For comparison with programs that forget to leave train mode. The model's modes and buffers and the global random
    state are put back; dropout draws from `seed`. Raises as `logits_of`.
    """
    device = device_of(model)
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    with frozen_eval(model), torch.no_grad(), _forked_random_state(device, seed):
        model.train()
        try:
            return _require_finite(_forward_in_chunks(model, x_NCHW, batch_size, role), model, role)
        finally:
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def check_suspect(fingerprint: Fingerprint, logits_NK: Tensor) -> None:
    """Raises UserError unless the suspect has as many classes as the fingerprint's victim."""
    expected, found = int(fingerprint.metadata["num_classes"]), logits_NK.shape[1]
    if found != expected:
        raise UserError(
            f"the suspect has {found} classes but the fingerprint's victim has {expected}; this defence compares class "
            f"by class: use defense=zest, which can align different label spaces, or defense=sac, which needs not"
        )


def seeded_generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose: different purposes of the same seed draw independent streams."""
    return torch.Generator(device="cpu").manual_seed(derive_seed(seed, purpose))


def seeded_indices(n: int, count: int, seed: int, purpose: str) -> Tensor:
    """`count` distinct indices of range(n), int64 on the CPU, in random order. The caller checks count <= n."""
    assert 0 <= count <= n, (count, n)
    return torch.randperm(n, generator=seeded_generator(seed, purpose))[:count]


def linf_pgd(
    objective: Callable[[Tensor], Tensor],
    x_NCHW: Tensor,
    *,
    step: float | Tensor,
    steps: int,
    radius: float | Tensor | None,
    start: Tensor | None,
    maximise: bool = True,
) -> Tensor:
    """Sign-gradient search in an Linf ball around x_NCHW and in [0, 1] (Madry et al. 2018): pixels (N, C, H, W).

    objective: pixels -> the sum of one term per sample, so that samples do not influence each other. step, radius: in
    pixel units; tensors broadcast against x_NCHW, e.g. (C, 1, 1) for per-channel sizes; radius None: no ball, only the
    box. start: the first iterate, projected; None starts at x_NCHW. The whole batch is one graph: the caller chunks.
    """
    direction = 1.0 if maximise else -1.0

    def project(candidate_NCHW: Tensor) -> Tensor:
        if radius is not None:
            candidate_NCHW = torch.minimum(torch.maximum(candidate_NCHW, x_NCHW - radius), x_NCHW + radius)
        return candidate_NCHW.clamp(0.0, 1.0)

    iterate_NCHW = project(x_NCHW if start is None else start).detach()
    for _ in range(steps):
        with torch.enable_grad():
            iterate_NCHW.requires_grad_(True)
            (gradient_NCHW,) = torch.autograd.grad(objective(iterate_NCHW), iterate_NCHW)
        iterate_NCHW = project(iterate_NCHW.detach() + direction * step * gradient_NCHW.sign())
    return iterate_NCHW


def samples_per_chunk(model: nn.Module, x_1CHW: Tensor, memory_mb: int) -> int:
    """How many images fit in `memory_mb` MiB (2**20 bytes) when differentiating the model by its input; at least 1.

    Measured, not guessed: one image goes through the model in eval mode and the tensors kept for the backward pass are
    added up, parameters and buffers left out. Twice that is allowed per image, for gradients and working space. A black
    box has a limit of its own.
    """
    if isinstance(model, BlackBox):
        return model.batch_size
    device = device_of(model)
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def remember(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with frozen_eval(model), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(remember, lambda t: t):
        x_1CHW = x_1CHW[:1].to(device).detach().clone().requires_grad_(True)
        graph = model(x_1CHW)  # alive until the sizes are read, so that no storage is reused
        size = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)
        del graph
    return max(1, int(memory_mb * 2**20 // max(1, 2 * size)))


def _forward_in_chunks(model: nn.Module, x_NCHW: Tensor, batch_size: int, role: str) -> Tensor:
    device = device_of(model)
    chunks = []
    for x_BCHW in x_NCHW.split(batch_size):
        try:
            logits_BK = model(x_BCHW.to(device))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what torch raises for shapes that do not fit
            raise UserError(
                f"{role} {type(model).__name__} cannot take queries of shape {tuple(x_BCHW.shape[1:])} "
                f"({first_line(error)}); test a model for images of that size and number of channels, or set "
                f"model.input_size"
            ) from error
        if not isinstance(logits_BK, Tensor) or logits_BK.dim() != 2 or len(logits_BK) != len(x_BCHW):
            shape = tuple(logits_BK.shape) if isinstance(logits_BK, Tensor) else type(logits_BK).__name__
            raise UserError(
                f"{role} {type(model).__name__} returns {shape} for {len(x_BCHW)} images; a classifier must return a "
                f"tensor of shape ({len(x_BCHW)}, number of classes)"
            )
        chunks.append(logits_BK.float())
    return torch.cat(chunks)


def _require_finite(logits_NK: Tensor, model: nn.Module, role: str) -> Tensor:
    broken = int((~logits_NK.isfinite().all(dim=1)).sum())
    if broken:
        raise UserError(
            f"{role} {type(model).__name__} returns non-finite logits for {broken} of {len(logits_NK)} queries; check "
            f"that its training did not diverge and that it expects pixels in [0, 1]"
        )
    return logits_NK


@contextmanager
def _forked_random_state(device: torch.device, seed: int) -> Iterator[None]:
    """Inside, the global generators of the CPU and of `device` start from `seed`; outside they are untouched."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
