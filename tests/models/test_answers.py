"""Answers of strangers' functions: every kind is recognised in every form it comes in, and the rest is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rnet.errors import UserError
from rnet.models.access import LEVELS, suffices
from rnet.models.answers import ANSWERS, as_logits, as_tensor, recognised

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 4.0]])
PROBABILITIES = LOGITS.softmax(dim=1)
NAN, INF = float("nan"), float("inf")

RECOGNISED = [
    ("logits", LOGITS),
    ("logits", LOGITS.double().numpy()),
    ("logits", LOGITS.half()),
    ("logits", LOGITS.bfloat16().requires_grad_()),
    ("logits", LOGITS.tolist()),
    ("logits", [[3, -4, 5], [6, 7, -8]]),
    ("probabilities", PROBABILITIES),
    ("probabilities", PROBABILITIES.numpy().round(2)),
    ("probabilities", [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]),
    ("log_probabilities", LOGITS.log_softmax(dim=1)),
    ("log_probabilities", torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]]).log()),
    ("labels", torch.tensor([2, 0])),
    ("labels", torch.tensor([2, 0], dtype=torch.uint8)),
    ("labels", np.array([2, 0], dtype=np.int32)),
    ("labels", np.array([2, 0], dtype=np.uint16)),
    ("labels", [2, 0]),
    ("labels", (2.0, 0.0)),
    ("labels", [np.int64(2), torch.tensor(0)]),
    ("labels", torch.tensor([[2], [0]])),
    ("labels", [[0, 0, 1], [1, 0, 0]]),
    (None, torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.9, 0.3]])),
]

REFUSED: list[tuple[Any, str]] = [
    (None, "a NoneType of object; it must be a tensor, a numpy array or a list"),
    ("cat", "a str of <U3"),
    ([True, False], "of bool"),
    ({"logits": LOGITS}, "a dict of object"),
    ([{"label": "cat", "score": 0.9}] * 2, "a list of object"),
    ([[1.0, 2.0], [3.0]], "that is no array"),
    (LOGITS.to_sparse(), "a Tensor that is no array"),
    (torch.complex(LOGITS, LOGITS), "of complex64"),
    (LOGITS[0], r"answers 2 images with shape \(3,\); it must be \(2,\), a label for each image, or \(2, number"),
    (LOGITS[None], r"with shape \(1, 2, 3\)"),
    (LOGITS[:1], r"with shape \(1, 3\)"),
    (torch.zeros(2, 0), r"with shape \(2, 0\)"),
    (torch.tensor(3), r"with shape \(\)"),
    ([[1.0, NAN, 0.0], [0.0, 1.0, 2.0]], "1 of 2 images with NaN or infinity"),
    ([[1.0, INF, 0.0], [NAN, 1.0, 2.0]], "2 of 2 images with NaN or infinity"),
    ([0.5, NAN], "1 of 2 images with NaN"),
    ([0.5, 0.25], "one number for each image that is no label"),
    (torch.tensor([[0.5], [0.25]]), "one number for each image that is no label"),
]

NOT_OF_ITS_KIND: list[tuple[str, Any, str]] = [
    ("labels", [0, 3], "the label 3, but labels are 0 to 2"),
    ("labels", [0, -1], "the label -1, but labels are 0 to 2"),
    ("labels", LOGITS, "numbers for each class where labels are expected"),
    ("logits", [0, 1], "labels where logits are expected"),
    ("logits", [[1.0, -INF, 0.0], [0.0, 1.0, 2.0]], "logits that are infinite"),
    ("probabilities", LOGITS, r"a probability of 4, which is not in \[0, 1\]"),
    ("probabilities", [[1.1, -0.1, 0.0], [1.0, 0.0, 0.0]], "a probability of 1.1"),
    ("probabilities", [[0.9, -0.1, 0.2], [1.0, 0.0, 0.0]], "a probability of -0.1"),
    ("probabilities", [[0.9, 0.9, 0.2], [1.0, 0.0, 0.0]], "1 of 2 images with probabilities that add up to 2"),
    ("log_probabilities", LOGITS, "a probability of 54.6"),
    ("log_probabilities", PROBABILITIES, "a probability of"),
    ("logits", torch.zeros(2, 4), "4 numbers an image, but there are 3 classes"),
    ("labels", [[1, 0, 0, 0], [0, 1, 0, 0]], "4 numbers an image, but there are 3 classes"),
]


@pytest.mark.parametrize(("kind", "answer"), RECOGNISED)
def test_the_kind_of_an_answer_is_recognised_whatever_holds_it(kind: str | None, answer: Any) -> None:
    assert recognised(as_tensor(answer, 2)) == kind


@pytest.mark.parametrize(("answer", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_answer_is_refused_with_what_it_is(answer: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_tensor(answer, 2)


@pytest.mark.parametrize(("kind", "answer", "message"), NOT_OF_ITS_KIND)
def test_an_answer_that_is_impossible_for_its_kind_is_refused(kind: str, answer: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_logits(as_tensor(answer, 2), kind, 3)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("logits", LOGITS),
        ("probabilities", PROBABILITIES),
        ("log_probabilities", LOGITS.log_softmax(dim=1)),
        ("labels", LOGITS.argmax(dim=1)),
    ],
)
def test_what_defences_get_has_all_that_the_answer_shows(kind: str, answer: Tensor) -> None:
    found = as_logits(as_tensor(answer, 2), kind, 3)
    assert torch.equal(found.argmax(dim=1), LOGITS.argmax(dim=1))
    if suffices(ANSWERS[kind], "probabilities"):
        torch.testing.assert_close(found.softmax(dim=1), PROBABILITIES)
    assert torch.equal(found, LOGITS) == (kind == "logits")


def test_probabilities_of_zero_stay_zero_and_finite() -> None:
    for kind, answer in (("probabilities", [[0.0, 1.0]]), ("log_probabilities", [[-INF, 0.0]])):
        found = as_logits(as_tensor(answer, 1), kind, 2)
        assert torch.isfinite(found).all()
        assert found.double().softmax(dim=1).tolist() == [[0.0, 1.0]]


def test_who_sees_more_sees_the_less() -> None:
    assert [[suffices(shown, needed) for needed in LEVELS] for shown in LEVELS] == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [True, True, True, True],
    ]
