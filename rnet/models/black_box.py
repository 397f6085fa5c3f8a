"""A model known by its answers only: a function of images, asked in batches, its answers checked and counted."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rnet.errors import UserError, first_line
from rnet.models.access import Access
from rnet.models.answers import ANSWERS, as_logits, as_tensor, recognised
from rnet.parallel.collectives import map_rows, rank, same_on_all, same_tensor_on_all


class BlackBox(nn.Module):
    """function as a frozen model: pixels (B, C, H, W) in [0, 1] -> (B, K), which as_logits describes.

    function: float32 pixels on the CPU -> a tensor, a numpy array or lists. place: what errors call it. kind: of its
    answers, as in ANSWERS; None takes what the first answer shows. num_classes: how many classes labels have; other
    answers may have another number, unless classes_known. batch_size: the most images of one call. asked: how many
    images it was asked about. Where several processes run, all of them call it with the same images, and the first one
    asks. It has no train mode, and no parameters but an empty one, by which whoever looks finds its device.
    """

    def __init__(
        self, function: Callable[[Tensor], Any], place: str, *, num_classes: int, classes_known: bool = False,
        kind: str | None = None, batch_size: int = 256,
    ) -> None:  # fmt: skip
        super().__init__()
        self.here = nn.Parameter(torch.empty(0), requires_grad=False)  # says on which device answers are wanted
        self.training = False
        self.function, self.place, self.batch_size = function, place, batch_size
        self.kind, self.num_classes, self.asked = kind, num_classes, 0
        self._classes_known, self._begun = classes_known, False

    @property
    def access(self) -> Access:
        """What its answers show."""
        assert self.kind is not None, "not asked yet"
        return ANSWERS[self.kind]

    @property
    def limits(self) -> str:
        """For people."""
        return f"shows {self.access} only"

    def forward(self, x_BCHW: Tensor) -> Tensor:
        parts = []
        for x in x_BCHW.split(self.batch_size):
            parts.append(self._answer(x))
            self.asked += len(x)
        return torch.cat(parts).to(x_BCHW.device)

    def train(self, mode: bool = True) -> BlackBox:
        """It can only be asked, so it stays in eval mode."""
        return super().train(False)

    def _answer(self, x_BCHW: Tensor) -> Tensor:
        """The first process's answers, on the CPU, for all; all raise its error."""
        answer, error = None, None
        if rank() == 0:
            try:
                answer = self._logits(x_BCHW)
            except UserError as raised:
                error = f"{self.place} {raised}"
        told: list[Any] = [error, self.kind, self.num_classes]
        error, self.kind, self.num_classes = same_on_all(told)
        if error is not None:
            raise UserError(error)
        return same_tensor_on_all(answer)

    def _logits(self, x_BCHW: Tensor) -> Tensor:
        """The function's answers as logits; notes their kind and the number of classes."""
        images = x_BCHW.detach().to("cpu", torch.float32, copy=True).contiguous()
        answer = as_tensor(self._called(images), len(images))
        self.kind, self.num_classes = self._settled(answer)
        return as_logits(answer, self.kind, self.num_classes)

    def _called(self, images: Tensor) -> Any:
        try:
            with torch.no_grad():
                return self.function(images)
        except (Exception, SystemExit) as error:  # a stranger's function may raise anything
            code = getattr(inspect.unwrap(self.function), "__code__", None)
            frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)[1:]]
            if code is not None:  # where in his own file, rather than inside a library
                frames = [frame for frame in frames if frame[0] == code.co_filename] or [
                    (code.co_filename, code.co_firstlineno)
                ]
            place = f" ({frames[-1][0]}, line {frames[-1][1]})" if frames else ""
            raise UserError(f"raised {type(error).__name__}: {first_line(error)}{place}") from error

    def _settled(self, answer: Tensor) -> tuple[str, int]:
        """The kind of the answers and the number of classes; the first answer decides what is not known."""
        kind, classes = self.kind, self.num_classes
        if not self._begun:
            kind = _agreed(kind, answer)
            if answer.dim() == 2 and not self._classes_known:
                classes = answer.shape[1]
            self._begun = True
        assert kind is not None
        return kind, classes


def _agreed(said: str | None, answer: Tensor) -> str:
    """The kind that the user said, or else the one found; UserError where the answer contradicts him."""
    found = recognised(answer)
    if said == "logits" and found not in ("logits", None) and len(answer) > 1:
        raise UserError(f"answers with {found.replace('_', ' ')}, but attack.answers=logits; say {found}")
    if said is None and found is None:
        raise UserError(
            f"answers with numbers from 0 to 1 that add up to {float(answer[0].sum()):.4g}, not to 1; if they "
            "are logits, say attack.answers=logits"
        )
    return said or str(found)


def map_images(model: nn.Module, function: Callable[..., Any], *tensors_N: Tensor) -> Any:
    """map_rows, but for a black box, which all processes ask about the same images."""
    return function(*tensors_N) if isinstance(model, BlackBox) else map_rows(function, *tensors_N)
