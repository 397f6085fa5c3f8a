"""Recipes: the schedules' shapes, mixtures that no split of the batch changes, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest

from rnet.config.run import load_config
from rnet.data.batches import Batch
from rnet.errors import UserError
from rnet.training.config import TrainConfig
from rnet.training.recipes import Mixup, cosine, mixed_cross_entropy, optimizer_of, views_of


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


def test_a_mixture_is_the_same_however_many_processes_share_the_batch() -> None:
    mixup = Mixup(0.2, 0)
    whole = mixup.mix(batch_of(list(range(8))), 5)
    shares = [mixup.mix(batch_of(ids), 5) for ids in ([0, 1, 2, 3], [4, 5, 6, 7])]
    for found, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(found, torch.cat(parts))


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
def test_half_a_pair_is_refused(ids: list[int]) -> None:
    with pytest.raises(UserError, match=r"train\.mixup=0\.2 mixes pairs of images.*even number"):
        Mixup(0.2, 0).mix(batch_of(ids), 0)


def test_the_cosine_rises_straight_and_falls_to_nothing() -> None:
    rates = [cosine(step, 100, 10) for step in range(101)]
    assert rates[:10] == pytest.approx([(k + 1) / 11 for k in range(10)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert all(after < before for before, after in pairwise(rates[10:]))
    assert cosine(0, 3, 3) < cosine(2, 3, 3) < 1


def test_a_recipe_names_optimizer_schedule_and_views() -> None:
    model = torch.nn.Linear(2, 2)
    config = TrainConfig(optimizer="adamw", schedule="cosine", warmup_epochs=1, learning_rate=0.01, weight_decay=0.3,
                         batch_size=10, crop_padding=0, crop_scale=[0.3, 1], rand_augment=4)  # fmt: skip
    optimizer, scheduler = optimizer_of(config, model, num_steps=50, num_images=100)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["weight_decay"] == 0.3
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == rates[10] == pytest.approx(0.01)
    views = views_of(config)
    assert views is not None
    assert (views.crop_scale, views.rand_augment) == ((0.3, 1), 4)
    assert views_of(TrainConfig()) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_scale": [0.5]}, r"train\.crop_scale=\[0\.5\] must be two shares"),
        ({"crop_scale": [0.9, 0.1]}, "0 < low <= high <= 1"),
        ({"crop_scale": [0.1, 1], "crop_padding": 2}, r"set train\.crop_padding=0"),
        ({"rand_augment": -1}, r"train\.rand_augment=-1 must be 0 or more"),
        ({"mixup": -1.0}, r"train\.mixup=-1\.0 must be 0 or more"),
        ({"optimizer": "adam"}, r"train\.optimizer"),
        ({"schedule": "step"}, r"train\.schedule"),
        ({"warmup_epochs": 2.0}, r"train\.warmup_epochs=2\.0 needs train\.schedule=cosine"),
    ],
)
def test_what_a_recipe_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**{"crop_padding": 0, **settings}).check()


def test_a_named_recipe_is_not_refined_by_the_presets_of_the_default_one() -> None:
    assert load_config(["dataset=digits"]).train.batch_size == 64
    assert load_config(["dataset=digits", "train=imagenet_vit"]).train.batch_size == 4096
    assert load_config(["train=imagenet_resnet50", "train.epochs=2"]).train.epochs == 2


def test_a_preset_under_its_former_name_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "train_preset").mkdir()
    (tmp_path / "train_preset" / "digits.yaml").write_text("epochs: 3\n")
    with pytest.raises(UserError, match=r"call it train_preset/default_digits\.yaml"):
        load_config(["dataset=digits"], config_dir=tmp_path)
    assert load_config(["dataset=fashion_mnist"], config_dir=tmp_path).train.epochs == 4
    assert load_config(["dataset=digits", "train_preset=digits"], config_dir=tmp_path).train.epochs == 3
