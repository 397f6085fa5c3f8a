"""Recipes: schedules, the average of the weights, views and optimizers, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.optim.swa_utils import AveragedModel

from rnet.config.compose import defaults
from rnet.config.run import load_config
from rnet.engines.averaging import WeightAverage
from rnet.errors import UserError
from rnet.stages import stages
from rnet.stages.store import Store
from rnet.training.config import TrainConfig
from rnet.training.recipes import cosine, optimizer_of, views_of
from tests.tiny_runs import tiny


def test_the_cosine_rises_straight_and_falls_to_nothing() -> None:
    rates = [cosine(step, 100, 10) for step in range(101)]
    assert rates[:10] == pytest.approx([(k + 1) / 11 for k in range(10)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert all(after < before for before, after in pairwise(rates[10:]))
    assert cosine(0, 3, 3) < cosine(2, 3, 3) < 1


def rates_of(scheduler: LRScheduler, count: int, every: int) -> list[float]:
    """The learning rate of each of so many passes. every: optimizer steps for one of the schedule's."""
    rates = []
    for step in range(count * every):
        if step % every == 0:
            rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def test_the_learning_rate_falls_by_steps_as_torchs_does_by_passes() -> None:
    config = TrainConfig(schedule="step", step_epochs=2, batch_size=10, nesterov=False, learning_rate=0.1)
    ours, scheduler = optimizer_of(config, nn.Linear(2, 2), num_steps=30, num_images=50)
    theirs = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    assert rates_of(scheduler, 6, 5) == pytest.approx(rates_of(StepLR(theirs, 2, gamma=0.1), 6, 1))
    assert not ours.param_groups[0]["nesterov"]


def test_the_average_of_the_weights_is_torchs_after_the_warm_up_of_its_decay() -> None:
    """Parameters and running statistics, updated every other step; the decay of update n is min(0.6, (1+n)/(10+n))."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    average, updates = WeightAverage(0.6, every=2), iter(range(100))

    def slowly(mean: Tensor, new: Tensor, _: Any) -> Tensor:
        decay = min(0.6, (1 + count) / (10 + count))
        return decay * mean + (1 - decay) * new

    reference = AveragedModel(model, avg_fn=slowly, use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    generator = torch.Generator().manual_seed(0)

    def held() -> dict[str, Tensor]:
        return {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}

    for step in range(40):
        optimizer.zero_grad()
        model(torch.randn(8, 3, generator=generator, dtype=torch.double)).square().mean().backward()
        optimizer.step()
        average.after_step(held)
        if step % 2:
            count = next(updates)
            reference.update_parameters(model)
    last = {name: value.clone() for name, value in held().items()}
    average.exchange(held)
    for name, value in reference.module.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(held()[name], value, rtol=1e-12), name
    assert not torch.equal(held()["0.weight"], last["0.weight"])
    average.exchange(held)
    assert all(torch.equal(held()[name], value) for name, value in last.items())


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
        ({"schedule": "linear"}, r"train\.schedule"),
        ({"cutmix": -1.0}, r"train\.cutmix=-1\.0 must be 0 or more"),
        ({"ema": 1.0}, r"train\.ema=1\.0 must be above 0 and below 1"),
        ({"ema_steps": 32}, r"train\.ema_steps=32 has no effect.*set train\.ema"),
        ({"accumulate": 3}, r"train\.accumulate=3 does not divide train\.batch_size=128"),
        ({"warmup_epochs": 2.0}, r"train\.warmup_epochs=2\.0 needs train\.schedule=cosine"),
    ],
)
def test_what_a_recipe_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**{"crop_padding": 0, **settings}).check()


def test_a_named_recipe_is_not_refined_by_the_presets_of_the_default_one() -> None:
    assert load_config(["dataset=digits"]).train.batch_size == 64
    assert load_config(["dataset=digits", "train=imagenet_vit"]).train.batch_size == 4096
    config = load_config(["train=imagenet_resnet50", "train.epochs=2"]).train
    assert (config.name, config.epochs, config.schedule) == ("imagenet_resnet50", 2, "step")


def test_a_preset_under_its_former_name_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "train_preset").mkdir()
    (tmp_path / "train_preset" / "digits.yaml").write_text("epochs: 3\n")
    with pytest.raises(UserError, match=r"call it train_preset/default_digits\.yaml"):
        load_config(["dataset=digits"], config_dir=tmp_path)
    assert load_config(["dataset=fashion_mnist"], config_dir=tmp_path).train.epochs == 4
    assert load_config(["dataset=digits", "train_preset=digits"], config_dir=tmp_path).train.epochs == 3


@pytest.mark.parametrize(
    ("model", "optimizer", "learning_rate", "clip_norm"),
    [
        (["model=vgg19_bn"], "sgd", 0.02, 1.0),
        (["model=torchvision", "model.name=vgg19_bn"], "sgd", 0.02, 1.0),
        (["model.name=vgg16"], "sgd", 0.02, 1.0),
        (["model=timm", "model.name=timm/vgg11.tv_in1k"], "sgd", 0.02, 1.0),
        (["model.name=squeezenet1_1"], "adamw", 0.001, 1.0),
        (["model=torchvision", "model.name=alexnet"], "adamw", 0.0005, 1.0),
        (["model.name=inception_v3", "train.clip_norm=3"], "sgd", 0.02, 3.0),
        (["model=timm", "model.name=deit_tiny_patch16_224"], "adamw", 0.001, 1.0),
        (["model=swin_t"], "adamw", 0.001, 1.0),
        (["model=torchvision", "model.name=resnet50"], "sgd", 0.1, None),
    ],
)
def test_networks_of_a_family_are_trained_alike_however_they_are_chosen(
    model: list[str], optimizer: str, learning_rate: float, clip_norm: float | None
) -> None:
    train = load_config(["dataset=cifar10", *model]).train
    assert (train.optimizer, train.learning_rate, train.clip_norm) == (optimizer, learning_rate, clip_norm)


def test_a_network_of_ones_own_is_in_no_family() -> None:
    assert defaults().family("vgg.library:Network") == defaults().family("resnet8") == ""


def test_presets_of_a_data_set_a_family_and_a_network_go_over_each_other(tmp_path: Path) -> None:
    for group in ("train_preset", "dataset", "model"):
        (tmp_path / group).mkdir()
    for name, rate in (("birds", 1), ("vgg", 2), ("birds_vgg", 3), ("vgg16", 4), ("birds_vgg16", 5)):
        (tmp_path / "train_preset" / f"default_{name}.yaml").write_text(f"learning_rate: {rate}\n")
    (tmp_path / "dataset" / "birds.yaml").write_text("name: digits\n")
    (tmp_path / "model" / "vgg16.yaml").write_text("name: vgg16\n")
    found = [
        load_config([f"dataset={dataset}", f"model={model}", "model.name=vgg16"], config_dir=tmp_path).train
        for dataset, model in (("digits", "resnet8"), ("birds", "resnet8"), ("digits", "vgg16"), ("birds", "vgg16"))
    ]
    assert [train.learning_rate for train in found] == [2, 3, 4, 5]
    assert load_config(["dataset=birds", "model=resnet8"], config_dir=tmp_path).train.learning_rate == 1


def test_in_a_short_training_running_statistics_keep_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that would average them over 3,000 steps is measured and kept as one with torch's usual batch norms."""
    build, kept = stages.build, []

    def with_momentum(momentum: float) -> Any:
        def made(*args: Any, **named: Any) -> nn.Module:
            model = build(*args, **named)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = momentum
            return model

        return made

    for momentum in (0.1, 0.0003):
        monkeypatch.setattr(stages, "build", with_momentum(momentum))
        kept.append(stages.train(tiny(), Store(tmp_path / str(momentum))))
    usual, slow = kept
    assert usual.result() == slow.result()
    assert usual.file("model.safetensors").read_bytes() == slow.file("model.safetensors").read_bytes()
