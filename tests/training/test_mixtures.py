"""Mixtures of images: those of torchvision, and the same however a batch is shared."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest
from torchvision.transforms.v2 import CutMix as TorchvisionCutMix

from rnet.data.batches import Batch
from rnet.errors import UserError
from rnet.training.config import TrainConfig
from rnet.training.mixtures import CutMix, Mixup, boxes, mixed_cross_entropy, mixture_of


def batch_of(ids: list[int]) -> Batch:
    ids_B = torch.tensor(ids)
    x_BCHW = torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(0))[ids_B]
    return Batch(
        indices_B=ids_B, x_BCHW=x_BCHW, labels_B=ids_B % 5, flipped_B=torch.zeros(len(ids), dtype=torch.bool),
        stream_ids_B=ids_B,
    )  # fmt: skip


def test_the_ratios_of_mixtures_are_drawn_from_a_beta_distribution_one_for_each_pair() -> None:
    shares_B = Mixup(0.4, 3).ratios(torch.arange(4000), 0, torch.device("cpu"))
    assert torch.equal(shares_B[1::2], 1 - shares_B[::2])
    assert kstest(shares_B[::2].numpy(), "beta", args=(0.4, 0.4)).pvalue > 1e-3


@pytest.mark.parametrize("settings", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_a_mixture_is_the_same_however_many_processes_share_the_batch(settings: dict[str, Any]) -> None:
    mixture = mixture_of(TrainConfig(**settings), 0)
    assert mixture is not None
    for step in range(6):
        whole = mixture.mix(batch_of(list(range(8))), step)
        shares = [mixture.mix(batch_of(ids), step) for ids in ([0, 1, 2, 3], [4, 5, 6, 7])]
        for found, *parts in zip(whole, *shares, strict=True):
            assert torch.equal(found, torch.cat(parts))


def test_boxes_labels_and_images_are_those_of_torchvisions_cutmix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same lambda and centre, given to both."""
    generator = torch.Generator().manual_seed(0)
    reference = TorchvisionCutMix(num_classes=5)
    for _ in range(60):
        kept, row, column = torch.rand(3, generator=generator, dtype=torch.double).tolist()
        centre = iter([int(column * 4), int(row * 4)])  # torchvision draws the column first
        monkeypatch.setattr(torch, "randint", lambda *_, centre=centre, **__: torch.tensor([next(centre)]))
        monkeypatch.setattr(reference, "_dist", SimpleNamespace(sample=lambda _, kept=kept: torch.tensor(kept)))
        batch = batch_of([0, 1])
        x_BCHW, labels_BK = reference(batch.x_BCHW, batch.labels_B)
        own = CutMix(1.0, 0)
        box_14 = boxes(torch.tensor([kept], dtype=torch.double), torch.tensor([[row, column]]).double(), 4, 4)
        monkeypatch.setattr(own, "boxes", lambda *_, box_14=box_14: box_14.expand(2, 4))
        found_BCHW, other_B, share_B = own.mix(batch, 0)
        assert torch.equal(found_BCHW, x_BCHW)
        targets_BK = share_B[:, None] * F.one_hot(batch.labels_B, 5) + (1 - share_B[:, None]) * F.one_hot(other_B, 5)
        assert torch.allclose(targets_BK, labels_BK)


def test_boxes_differ_between_images_and_have_the_area_that_lambda_leaves() -> None:
    """Lambda is uniform for alpha = 1, so uncut boxes have half the area in the mean; edges cut some of that off."""
    boxes_B4 = CutMix(1.0, 3).boxes(torch.arange(4000), 0, 64, 64)
    area_B = (boxes_B4[:, 2] - boxes_B4[:, 0]) * (boxes_B4[:, 3] - boxes_B4[:, 1]) / 64**2
    assert len(boxes_B4.unique(dim=0)) > 3500
    assert 0.25 < area_B.mean() < 0.4
    assert ((boxes_B4 >= 0) & (boxes_B4 <= 64)).all()


def test_mixup_and_cutmix_take_turns_by_chance() -> None:
    both, mixup = (mixture_of(TrainConfig(mixup=0.2, **more), 0) for more in ({"cutmix": 1.0}, {}))
    assert both is not None
    assert mixup is not None
    batch = batch_of([0, 1])
    same = [torch.equal(both.mix(batch, step)[0], mixup.mix(batch, step)[0]) for step in range(200)]
    assert 70 < sum(same) < 130


def test_an_image_and_its_label_are_mixed_in_the_same_ratio() -> None:
    batch = batch_of([0, 1])
    x_BCHW, other_B, share_B = Mixup(1.0, 0).mix(batch, 0)
    assert torch.allclose(x_BCHW[0], share_B[0] * batch.x_BCHW[0] + (1 - share_B[0]) * batch.x_BCHW[1])
    assert other_B.tolist() == [1, 0]
    logits_BK = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    targets_BK = share_B[:, None] * F.one_hot(batch.labels_B, 5) + (1 - share_B[:, None]) * F.one_hot(other_B, 5)
    for smoothing in (0.0, 0.1):
        found = mixed_cross_entropy(logits_BK, batch.labels_B, other_B, share_B, label_smoothing=smoothing)
        assert torch.allclose(found, F.cross_entropy(logits_BK, targets_BK, label_smoothing=smoothing))


@pytest.mark.parametrize("ids", [[0, 1, 2], [1, 2]])
@pytest.mark.parametrize("key", ["mixup", "cutmix"])
def test_half_a_pair_is_refused(key: str, ids: list[int]) -> None:
    mixture = mixture_of(TrainConfig(**{key: 0.2}), 0)
    assert mixture is not None
    with pytest.raises(UserError, match=rf"train\.{key}=0\.2 mixes pairs of images.*even number"):
        mixture.mix(batch_of(ids), 0)
