"""What a stranger's function answers to a batch of images: which kind it is, and as logits that defences can use.

Shapes: B images of a batch, K classes. A UserError says what is wrong with an answer; who asked puts the name before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnet.errors import UserError, first_line
from rnet.models.access import Access

ANSWERS: dict[str, Access] = {
    "labels": "labels", "probabilities": "probabilities", "log_probabilities": "probabilities", "logits": "logits",
}  # fmt: skip
"""Kinds of answers, and what they show of a model."""

ROUNDING = 0.05
"""How far the probabilities of an image may be from 1 together: services round them."""
EXACT = 1e-3
"""How close sums are to 1 where a kind is told by them."""
LEAST = -1e4
"""Stands for the logarithm of 0: softmax makes 0 of it again."""


def as_tensor(answer: Any, count: int) -> Tensor:
    """int64 labels (B,) or float32 values (B, K) on the CPU, of a tensor, a numpy array or nested lists.

    Raises UserError for anything else, other shapes, NaN and infinity (but for -inf, which is the logarithm of 0).
    """
    try:
        if isinstance(answer, Tensor):
            answer = answer.detach().cpu()
            answer = answer.float() if answer.is_floating_point() else answer
        array: NDArray[Any] = np.asarray(answer)
    except Exception as error:  # lists of unequal lengths, sparse tensors, anything
        raise UserError(f"answers with a {type(answer).__name__} that is no array ({first_line(error)})") from None
    if array.dtype.kind not in "iuf":
        raise UserError(
            f"answers with a {type(answer).__name__} of {array.dtype}; it must be a tensor, a numpy array or a list of "
            "numbers"
        )
    if array.ndim not in (1, 2) or len(array) != count or 0 in array.shape:
        raise UserError(
            f"answers {count} images with shape {tuple(array.shape)}; it must be ({count},), a label for each "
            f"image, or ({count}, number of classes)"
        )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    values = torch.from_numpy(array.astype(np.int64 if array.dtype.kind in "iu" else np.float32))
    if values.isnan().any() or (values == torch.inf).any():
        broken = int((values.isnan() | (values == torch.inf)).reshape(count, -1).any(dim=1).sum())
        raise UserError(f"answers {broken} of {count} images with NaN or infinity")
    if values.dim() == 1 and values.is_floating_point():
        if not torch.equal(values, values.round()):
            raise UserError(
                "answers with one number for each image that is no label; give labels 0, 1, 2, ..., or a number for "
                "each class"
            )
        values = values.long()
    return values if values.dim() == 1 else values.float()


def recognised(answer: Tensor) -> str | None:
    """The kind of an answer that as_tensor has made; None for numbers in [0, 1] that do not add up to 1.

    Rows of one 1 and zeros are labels. Probabilities lie in [0, 1] and add up to 1, as e to the power of their
    logarithms does. Logits with either property do not occur in a whole batch.
    """
    if answer.dim() == 1 or _one_hot(answer):
        return "labels"
    if bool((answer >= 0).all()) and bool((answer <= 1).all()):
        sums_B = answer.double().sum(dim=1)
        return "probabilities" if bool(((sums_B - 1).abs() <= ROUNDING).all()) else None
    if bool((answer.double().logsumexp(dim=1).abs() <= EXACT).all()):
        return "log_probabilities"
    return "logits"


def as_logits(answer: Tensor, kind: str, num_classes: int) -> Tensor:
    """Float32 (B, K): logits, logarithms of probabilities, or 1 at the label and 0 elsewhere.

    num_classes: how many there are. Raises UserError for answers that are not of the kind, or have other classes.
    """
    if answer.dim() == 2 and answer.shape[1] != num_classes:
        raise UserError(f"answers with {answer.shape[1]} numbers an image, but there are {num_classes} classes")
    if kind == "labels":
        return _one_hot_of(answer, num_classes)
    if answer.dim() == 1:
        raise UserError(f"answers with labels where {kind.replace('_', ' ')} are expected (attack.answers)")
    if kind != "log_probabilities" and bool(answer.isinf().any()):
        raise UserError(f"answers with {kind} that are infinite")
    if kind == "logits":
        return answer
    p_BK = answer.double().exp() if kind == "log_probabilities" else answer.double()
    if bool((p_BK < 0).any()) or bool((p_BK > 1 + EXACT).any()):
        worst = float(p_BK.max() if bool((p_BK > 1 + EXACT).any()) else p_BK.min())
        raise UserError(f"answers with a probability of {worst:.4g}, which is not in [0, 1]")
    off_B = (p_BK.sum(dim=1) - 1).abs() > ROUNDING
    if bool(off_B.any()):
        found = float(p_BK.sum(dim=1)[off_B][0])
        raise UserError(
            f"answers {int(off_B.sum())} of {len(off_B)} images with probabilities that add up to {found:.4g}"
        )
    return p_BK.log().clamp(min=LEAST).float()


def _one_hot(answer_BK: Tensor) -> bool:
    return bool(((answer_BK == 0) | (answer_BK == 1)).all()) and bool((answer_BK.sum(dim=1) == 1).all())


def _one_hot_of(answer: Tensor, num_classes: int) -> Tensor:
    if answer.dim() == 2:
        if not _one_hot(answer):
            raise UserError("answers with numbers for each class where labels are expected (attack.answers)")
        return answer
    beyond = answer[(answer < 0) | (answer >= num_classes)]
    if len(beyond):
        raise UserError(f"answers with the label {int(beyond[0])}, but labels are 0 to {num_classes - 1}")
    return torch.nn.functional.one_hot(answer, num_classes).float()
