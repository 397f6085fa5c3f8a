"""What a run shows of itself: curves, pictures and text for TensorBoard, a JSON log, and progress on stderr."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from rnet.config.documents import flattened
from rnet.storage.files import make_folder
from rnet.storage.json_files import is_number
from rnet.training.monitor.json_lines import JsonLines
from rnet.training.monitor.layout import CHARTS
from rnet.training.monitor.progress import Progress, progress_on_stderr
from rnet.training.monitor.startup import startup

logger = logging.getLogger(__name__)


class Monitor:
    """The monitor of one run. Only rank 0 has one; other ranks take a `NullMonitor`.

    folder: the folder of the run, which gets `tensorboard/` and `log.jsonl`; None for progress only. start_step: the
    number of steps already done; what an interrupted attempt logged of later steps is dropped, so that the log and the
    curves of a resumed run are those of an uninterrupted one. quiet: no progress. every_seconds: the least time
    between two lines of progress where stderr is not a terminal.

    What is logged at step s is about the model after s steps: from 0 to total_steps. `advance` takes s, too.
    """

    def __init__(
        self,
        folder: Path | None,
        label: str,
        total_steps: int,
        start_step: int = 0,
        quiet: bool = False,
        *,
        every_seconds: float = 10.0,
    ) -> None:
        self.total_steps = total_steps
        self._warned: set[str] = set()
        self._curves: set[str] = set()
        self._log: JsonLines | None = None
        self._writer: Any = None
        self._progress: Progress | None = None
        if folder is not None:
            make_folder(folder)
            self._log = JsonLines(folder / "log.jsonl", start_step)
            self._writer = _tensorboard_writer(folder / "tensorboard", start_step)
        if not quiet:
            self._progress = progress_on_stderr(label, total_steps, start_step, every_seconds)

    @property
    def draws(self) -> bool:
        """Whether pictures are kept, so that they are worth making."""
        return self._writer is not None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs one point of each curve, e.g. {"loss/total": 0.41}. NaN and infinity are logged as such."""
        numbers = {name: float(value) for name, value in values.items()}
        for name, number in numbers.items():
            if not math.isfinite(number) and name not in self._warned:
                self._warned.add(name)
                logger.warning("%s is %s at step %d (said once for each name)", name, number, step)
        self._curves |= numbers.keys()
        if self._log is not None:
            self._log.write(step, numbers)
        if self._writer is not None:
            for name, number in numbers.items():
                self._writer.add_scalar(name, number, step)

    def advance(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Moves the bar, or writes a line if one is due: `step` steps are done, values are shown under short names."""
        if self._progress is not None:
            self._progress.advance(step, {name: float(value) for name, value in (values or {}).items()})

    def image(self, step: int, tag: str, pixels: Any) -> None:
        """Shows a uint8 picture, (H, W, C), (C, H, W) or (H, W), C in 1, 3, 4. An array or a CPU tensor."""
        array = np.asarray(pixels)
        if array.dtype != np.uint8:
            raise TypeError(f"image {tag!r} has dtype {array.dtype}; pictures are uint8")
        if self._writer is not None:
            self._writer.add_image(tag, array, step, dataformats=_layout(tag, array.shape))

    def histogram(self, step: int, tag: str, values: Any) -> None:
        """Shows how numbers are distributed; an array or a CPU tensor of any shape. Those not finite are left out."""
        if self._writer is None:
            return
        array = np.asarray(values, dtype=np.float64).ravel()
        if len(array := array[np.isfinite(array)]):
            self._writer.add_histogram(tag, array, step, bins="auto")

    def charts(self) -> None:
        """Lays out the tab "Custom scalars", the trade-off of accuracy against evasion first (layout.py)."""
        if self._writer is not None:
            self._writer.add_custom_scalars(CHARTS)

    def text(self, step: int, tag: str, text: str) -> None:
        """Shows a text, Markdown."""
        if self._writer is not None:
            self._writer.add_text(tag, text, step)

    def hyperparameters(self, values: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Enters the run in TensorBoard's HPARAMS table: its settings and what it achieved. Call it once, at the end.

        values: nested mappings become dotted names (`attack.rho`); what is no number is shown as text.
        metrics: a name that is also a curve of this run stands for the last point of that curve.
        """
        if self._writer is None:
            return
        from torch.utils.tensorboard.summary import hparams

        # SummaryWriter.add_hparams would open a second event file; TensorBoard then stops following the first one.
        for summary in hparams(_in_a_row(values), dict(metrics)):
            self._writer.file_writer.add_summary(summary, self.total_steps)
        for name in metrics.keys() - self._curves:
            self._writer.add_scalar(name, float(metrics[name]), self.total_steps)

    def flush(self) -> None:
        """Returns when all that was logged is written. Called before a checkpoint is saved, no crash loses a point."""
        if self._log is not None:
            self._log.flush()
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Writes the last line of progress and closes the files. Closing twice is harmless."""
        if self._progress is not None:
            self._progress.close()
        if self._log is not None:
            self._log.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NullMonitor(Monitor):
    """Shows and writes nothing: for tests and for ranks other than 0."""

    def __init__(self) -> None:
        super().__init__(None, "", 0, quiet=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        pass


def _tensorboard_writer(folder: Path, start_step: int) -> Any:
    """A SummaryWriter that hides what an earlier attempt wrote about steps >= start_step.

    A first attempt has nothing to hide, but is marked all the same: TensorBoard takes the first mark that it reads for
    the beginning.
    """
    with startup.part("importing"):  # which is slow, and not needed to import rnet
        from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=start_step)


def _layout(tag: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "HW"
    if len(shape) == 3 and shape[-1] in (1, 3, 4):
        return "HWC"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return "CHW"
    raise ValueError(f"image {tag!r} has shape {shape}; pictures are (H, W, C), (C, H, W) or (H, W), C in 1, 3, 4")


def _in_a_row(values: Mapping[str, Any]) -> dict[str, int | float | str]:
    """As HPARAMS takes them. A bool is an int to Python, and would be shown as 1 or 0."""
    return {name: value if is_number(value) else str(value) for name, value in flattened(values).items()}
