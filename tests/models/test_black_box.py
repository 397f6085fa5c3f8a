"""A function as a model: what it is given, how often it is asked, what is said of its faults."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rnet.defenses.queries import logits_of, quick_copy, samples_per_chunk
from rnet.errors import UserError
from rnet.models.black_box import BlackBox
from rnet.rewrites.modes import device_of, frozen_eval


def boxed(function: Callable[[Tensor], Any], **settings: Any) -> BlackBox:
    return BlackBox(function, "attack.function='m:f'", **{"num_classes": 3, **settings})


def brightness(x_BCHW: Tensor) -> Tensor:
    mean_B = x_BCHW.flatten(1).mean(dim=1)
    return torch.stack([mean_B, -mean_B, 2 * mean_B], dim=1)


PIXELS = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_function_gets_float_pixels_of_its_own_in_batches_of_the_size_it_takes() -> None:
    given: list[Tensor] = []

    def spoil(x_BCHW: Tensor) -> Tensor:
        given.append(x_BCHW.clone())
        assert not torch.is_grad_enabled()
        assert x_BCHW.is_contiguous()
        answer = brightness(x_BCHW)
        x_BCHW.zero_()
        return answer

    box = boxed(spoil, batch_size=3)
    kept = PIXELS.clone()
    assert torch.equal(logits_of(box, PIXELS.double(), batch_size=5), brightness(PIXELS))
    assert [len(x) for x in given] == [3, 2, 2]
    assert all(x.dtype == torch.float32 for x in given)
    assert torch.equal(torch.cat(given), PIXELS)
    assert torch.equal(PIXELS, kept)
    box(PIXELS)
    assert torch.equal(PIXELS, kept)


def test_every_image_asked_about_is_counted() -> None:
    box = boxed(brightness, batch_size=2)
    for _ in range(3):
        box(PIXELS)
    assert box.asked == 3 * len(PIXELS)


def test_it_cannot_be_copied_trained_or_differentiated() -> None:
    box = boxed(brightness)
    assert quick_copy(box) is box
    assert not box.train().training
    assert sum(parameter.numel() for parameter in box.parameters()) == 0
    assert samples_per_chunk(box, PIXELS, 1) == box.batch_size
    assert box.asked == 0
    assert device_of(box) == torch.device("cpu")
    with frozen_eval(box):
        assert not box(PIXELS.requires_grad_()).requires_grad
    PIXELS.requires_grad_(False)


@pytest.mark.parametrize(
    ("answer", "kind", "access"),
    [
        (brightness, "logits", "logits"),
        (lambda x: brightness(x).softmax(1), "probabilities", "probabilities"),
        (lambda x: brightness(x).log_softmax(1), "log_probabilities", "probabilities"),
        (lambda x: brightness(x).argmax(1), "labels", "labels"),
    ],
)
def test_the_first_answer_says_what_it_shows(answer: Callable[[Tensor], Any], kind: str, access: str) -> None:
    box = boxed(answer)
    found = box(PIXELS)
    assert (box.kind, box.access, box.limits) == (kind, access, f"shows {access} only")
    assert torch.equal(found.argmax(dim=1), brightness(PIXELS).argmax(dim=1))


def test_answers_with_other_classes_are_taken_unless_the_number_is_known() -> None:
    box = boxed(brightness, num_classes=5)
    box(PIXELS)
    assert box.num_classes == 3
    with pytest.raises(UserError, match="3 numbers an image, but there are 5 classes"):
        boxed(brightness, num_classes=5, classes_known=True)(PIXELS)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("labels", "logits", "numbers for each class where labels are expected"),
        ("logits", "labels", "labels where logits are expected"),
        ("probabilities", "logits", "a probability of"),
        ("log_probabilities", "logits", "probabilities that add up to|a probability of"),
        ("logits", "four", "4 numbers an image, but there are 3 classes"),
    ],
)
def test_answers_that_change_their_kind_are_refused(first: str, second: str, message: str) -> None:
    p_BK = torch.tensor([[0.2, 0.3, 0.5]] * 2)
    answers = {
        "labels": torch.tensor([0, 1]), "logits": torch.tensor([[1.0, 5.0, -2.0]] * 2),
        "probabilities": p_BK, "log_probabilities": p_BK.log(),
        "four": torch.zeros(2, 4),
    }  # fmt: skip
    turns = iter([answers[first], answers[second]])
    box = boxed(lambda x: next(turns))
    box(PIXELS[:2])
    with pytest.raises(UserError, match=rf"^attack\.function='m:f' answers with ({message})"):
        box(PIXELS[:2])


@pytest.mark.parametrize(
    ("said", "answer", "message"),
    [
        ("logits", lambda x: brightness(x).softmax(1), "probabilities, but attack.answers=logits; say probabilities"),
        ("logits", lambda x: brightness(x).log_softmax(1), "with log probabilities, but attack.answers=logits"),
        ("logits", lambda x: torch.eye(3)[brightness(x).argmax(1)], "with labels, but attack.answers=logits"),
        ("logits", lambda x: [0] * len(x), "with labels, but attack.answers=logits"),
        ("labels", brightness, "numbers for each class where labels are expected"),
        ("probabilities", lambda x: [0] * len(x), "labels where probabilities are expected"),
        (None, lambda x: torch.full((len(x), 3), 0.9), "numbers from 0 to 1 that add up to 2.7, not to 1"),
    ],
)
def test_answers_that_contradict_what_is_said_of_them_are_refused(
    said: str | None, answer: Callable[[Tensor], Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        boxed(answer, kind=said)(PIXELS)


def test_numbers_from_0_to_1_may_be_said_to_be_logits() -> None:
    assert boxed(lambda x: torch.full((len(x), 3), 0.9), kind="logits")(PIXELS).tolist()[0] == pytest.approx([0.9] * 3)


def test_saturated_probabilities_may_be_said_to_be_probabilities() -> None:
    box = boxed(lambda x: torch.eye(3)[[0] * len(x)], kind="probabilities")
    assert box(PIXELS).softmax(dim=1).tolist() == [[1.0, 0.0, 0.0]] * len(PIXELS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 // 0", r"raised ZeroDivisionError: .* \({file}, line 4\)"),
        ("raise ValueError('first\\nsecond')", r"raised ValueError: first \({file}, line 4\)"),
        ("return torch.zeros(2, 3) @ torch.zeros(2, 3)", r"raised RuntimeError: .* \({file}, line 4\)"),
        ("return inside()", r"raised KeyError: 'a' \({file}, line 5\)"),
        ("import sys; sys.exit('bye')", r"raised SystemExit: bye \({file}, line 4\)"),
    ],
)
def test_an_error_in_the_function_is_one_line_with_file_and_line(body: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "theirs.py"
    code = f"import torch\n@torch.no_grad()\ndef ask(x):\n    {body}\ndef inside(): return {{}}['a']\n"
    file.write_text(textwrap.dedent(code))
    space: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), space)
    with pytest.raises(UserError) as refused:
        boxed(space["ask"])(PIXELS)
    assert "\n" not in str(refused.value)
    assert re.search(message.replace("{file}", re.escape(str(file))), str(refused.value)), str(refused.value)


def test_a_function_that_takes_no_images_is_named_by_its_file() -> None:
    with pytest.raises(UserError, match=r"raised TypeError: .* \(.*test_black_box\.py, line \d+\)"):
        boxed(lambda: None)(PIXELS)  # type: ignore[arg-type, misc]
