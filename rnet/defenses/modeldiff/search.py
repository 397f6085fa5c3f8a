"""ModelDiff's perturbed inputs by queries alone: pixels are moved while that raises one score of all images together.

Source: the paper's Algorithm 1 as the authors' program has it. There the score is a product over both models compared;
here it is the victim's part, so that one fingerprint serves all suspects.

Shapes: N images, C channels, H height, W width, K classes, T tries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.defenses.modeldiff.config import ModelDiffConfig
from rnet.defenses.queries import logits_of, quick_copy, seeded_generator
from rnet.training.monitor.progress import tell

MOVE = 0.2  # in normalised units, as in the authors' program
TRIES = 1000


def searched_versions(
    config: ModelDiffConfig, victim: nn.Module, x_NCHW: Tensor, logits_NK: Tensor, dataset: Dataset, seed: int
) -> Tensor:
    """Perturbed versions (N, C, H, W) of the seeds; logits_NK: the victim's on the seeds.

    Each try takes one pixel of one image a step up and a step down; the better of the two is kept if it scores higher
    than what there is. Models answer image by image, so the other outputs need not be asked for again.
    """
    tries = config.steps or TRIES
    generator = seeded_generator(seed, "modeldiff/search")
    pixel_T = torch.randint(0, x_NCHW[0].numel(), (tries,), generator=generator).tolist()
    image_T = torch.randint(0, len(x_NCHW), (tries,), generator=generator).tolist()
    move = MOVE if config.epsilon is None else config.epsilon
    pixels_per_channel = x_NCHW.shape[2] * x_NCHW.shape[3]
    asked, found_NCHW = quick_copy(victim), x_NCHW.clone()
    score = Score(logits_NK, shift=config.goal == "distance_and_diversity")
    for number, (pixel, image) in enumerate(zip(pixel_T, image_T, strict=True)):
        tell(number, tries, "tries")
        two_2CHW = found_NCHW[image].repeat(2, 1, 1, 1)
        step = move * dataset.std_C[pixel // pixels_per_channel]
        flat_2P = two_2CHW.view(2, -1)
        flat_2P[0, pixel] += step
        flat_2P[1, pixel] -= step
        if config.box:
            flat_2P[:, pixel].clamp_(0.0, 1.0)
        two_2K = logits_of(asked, two_2CHW, role="victim").cpu().double()
        up, down = (score.with_row(image, row_K) for row_K in two_2K)
        if max(up, down) > score.value:
            better = 0 if up > down else 1
            found_NCHW[image] = two_2CHW[better]
            score.replace_row(image, two_2K[better])
    return found_NCHW


class Score:
    """The mean shift of the outputs since the start times the mean distance between them, kept up to date row by row.

    The mean distance is over all N * N pairs, those of an output with itself included. shift=False: the mean distance
    alone. Float64 on the CPU; `value` is the score of the rows as they are.
    """

    def __init__(self, logits_NK: Tensor, *, shift: bool) -> None:
        self.start_NK = logits_NK.cpu().double()
        self.rows_NK = self.start_NK.clone()
        self.distance_NN = torch.cdist(self.rows_NK, self.rows_NK, compute_mode="donot_use_mm_for_euclid_dist")
        self.shift_N = torch.zeros(len(logits_NK), dtype=torch.float64) if shift else None
        self.value = self._value(float(self.distance_NN.sum()), 0.0)

    def with_row(self, index: int, row_K: Tensor) -> float:
        """The score if the output with this index were row_K."""
        total = float(self.distance_NN.sum() + 2 * (self._distances(index, row_K) - self.distance_NN[index]).sum())
        if self.shift_N is None:
            return self._value(total, 0.0)
        moved = float(self.shift_N.sum() - self.shift_N[index] + (row_K - self.start_NK[index]).norm())
        return self._value(total, moved)

    def replace_row(self, index: int, row_K: Tensor) -> None:
        """Makes row_K the output with this index."""
        self.value = self.with_row(index, row_K)
        self.distance_NN[index] = self.distance_NN[:, index] = self._distances(index, row_K)
        self.rows_NK[index] = row_K
        if self.shift_N is not None:
            self.shift_N[index] = (row_K - self.start_NK[index]).norm()

    def _distances(self, index: int, row_K: Tensor) -> Tensor:
        distance_N = (self.rows_NK - row_K).norm(dim=1)
        distance_N[index] = 0.0
        return distance_N

    def _value(self, total: float, moved: float) -> float:
        diversity = total / len(self.rows_NK) ** 2
        return diversity if self.shift_N is None else diversity * moved / len(self.rows_NK)
