"""The registry of datasets: names, settings, and what a loaded dataset promises."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from rnet.config.run import load_config
from rnet.data.config import DatasetConfig, DigitsConfig
from rnet.data.images import RawImages, TensorSource
from rnet.data.loading import load_dataset
from rnet.data.registry import DATASETS
from rnet.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"
NAMES = [
    *("bcn20000", "celeba", "cifar10", "cinic10", "digits", "fashion_mnist", "gtsrb", "ham10000", "huggingface"),
    *("image_folder", "imagenet", "lfw", "tsrd", "vggface2", "webdataset"),
]
IMAGES = torch.randint(0, 256, (40, 3, 6, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
HERE = "tests.data.test_loading"


def load_colour(config: DatasetConfig) -> RawImages:
    """40 random 6x6 colour images with an official test of 10."""
    return RawImages(
        train=TensorSource(IMAGES),
        train_labels_N=torch.arange(40) % 4,
        test=TensorSource(255 - IMAGES[:10]),
        test_labels_N=torch.arange(10) % 4,
        num_classes=4,
        flip=True,
    )


def load_narrow(config: DatasetConfig) -> RawImages:
    return RawImages(
        train=TensorSource(IMAGES[:, :, :, :4]), train_labels_N=torch.arange(40) % 4, num_classes=4, flip=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColourConfig(DatasetConfig):
    unused = ("folder",)
    name: str = f"{HERE}:load_colour"


@pytest.fixture
def colour_set(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The images of load_colour; the test may change them."""
    monkeypatch.setattr(f"{HERE}.IMAGES", IMAGES.clone())
    return sys.modules[HERE].IMAGES


def colour(**changes: Any) -> DatasetConfig:
    return ColourConfig(**{"substitute_pool": 15, **changes})


def test_naming_the_datasets_imports_no_torch_and_loaders_import_libraries_when_called() -> None:
    code = (
        "import sys; from rnet.data.registry import DATASETS; print(*DATASETS.own());"
        "[DATASETS.config_class(name) for name in DATASETS.own()]; assert 'torch' not in sys.modules;"
        "[DATASETS.load(name) for name in DATASETS.own()];"
        "assert not {'torchvision', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CONFIGS.parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == NAMES


def test_an_unknown_dataset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="dataset='fashion-mnist' does not exist; did you mean fashion_mnist"):
        load_dataset(DatasetConfig(name="fashion-mnist"))


@pytest.mark.parametrize("name", NAMES)
def test_the_option_of_every_dataset_is_a_valid_configuration_of_it(name: str) -> None:
    config = load_config([f"dataset={name}"]).dataset
    assert type(config) is DATASETS.config_class(name)
    assert config.name == name


def test_what_only_changes_the_execution_is_not_part_of_an_identity() -> None:
    marked = {field.name for field in dataclasses.fields(DatasetConfig) if field.metadata.get("execution_only")}
    assert marked == {"download", "max_memory_mb"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_size", -1), ("substitute_pool", -1), ("train_size", 0), ("test_size", 0), ("max_memory_mb", -1)],
)
def test_values_out_of_range_are_refused_by_name(colour_set: torch.Tensor, key: str, value: int) -> None:
    with pytest.raises(UserError, match=f"dataset.{key}={value} must be"):
        load_dataset(colour(**{key: value}))


def test_a_setting_without_effect_is_warned_about(colour_set: torch.Tensor) -> None:
    with pytest.warns(UserWarning, match=r"dataset.folder='here' has no effect for dataset=.*load_colour"):
        load_dataset(colour(folder="here"))


def test_a_setting_of_one_dataset_is_no_key_of_another() -> None:
    assert load_config(["dataset=celeba", "dataset.attribute=Young"]).dataset.attribute == "Young"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"key='dataset.attribute' does not exist"):
        load_config(["dataset=digits", "dataset.attribute=Young"])


def test_a_configuration_of_another_dataset_is_refused() -> None:
    with pytest.raises(UserError, match=r"dataset='celeba' is configured by .*CelebAConfig, not by DatasetConfig"):
        load_dataset(DatasetConfig(name="celeba"))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"train_labels_N": torch.zeros(39, dtype=torch.long)}, "returns 40 train images but 39 labels"),
    ({"num_classes": 3}, "train labels from 0 to 3, but 3 classes"),
    ({"test_labels_N": None}, "test images without labels"),
    ({"train": TensorSource(IMAGES.float())}, "train images as uint8"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_what_a_loader_gets_wrong_is_said(
    colour_set: torch.Tensor, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    right = load_colour(colour())
    monkeypatch.setattr(f"{HERE}.load_colour", lambda config: dataclasses.replace(right, **changes))
    with pytest.raises(UserError, match=message):
        load_dataset(dataclasses.replace(colour()))


def test_the_substitute_pool_is_taken_from_the_training_images_and_the_official_test_is_kept(
    colour_set: torch.Tensor,
) -> None:
    dataset = load_dataset(colour())
    assert (len(dataset.train), len(dataset.substitute), len(dataset.test)) == (25, 15, 10)
    assert not set(dataset.train.positions_N.tolist()) & set(dataset.substitute.positions_N.tolist())
    for part, images in (
        (dataset.train, colour_set),
        (dataset.substitute, colour_set),
        (dataset.test, 255 - colour_set),
    ):
        assert torch.equal(part.fetch(torch.arange(len(part))), images[part.positions_N])
        assert torch.equal(part.labels_N, part.positions_N % 4)


def test_mean_and_deviation_are_those_of_the_victims_training_images(colour_set: torch.Tensor) -> None:
    dataset = load_dataset(colour())
    for channel in range(3):
        pixels = [colour_set[i, channel].numpy() for i in dataset.train.positions_N.tolist()]
        values = np.concatenate(pixels).astype(np.float64) / 255
        assert dataset.mean_C[channel] == pytest.approx(values.mean(), abs=1e-12)
        assert dataset.std_C[channel] == pytest.approx(values.std(), abs=1e-12)


def test_statistics_of_many_images_use_a_seeded_sample(
    colour_set: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_dataset(colour())
    monkeypatch.setattr("rnet.data.statistics.MAX_IMAGES", 20)
    sampled, again = load_dataset(colour()), load_dataset(colour())
    assert sampled.mean_C == again.mean_C != whole.mean_C
    assert sampled.mean_C == pytest.approx(whole.mean_C, abs=0.05)


def test_a_constant_channel_has_a_deviation_one_can_divide_by(colour_set: torch.Tensor) -> None:
    colour_set[:, 1] = 7
    dataset = load_dataset(colour())
    assert dataset.std_C[1] == pytest.approx(1 / 255)
    assert dataset.mean_C[1] == pytest.approx(7 / 255)


def test_flip_is_the_datasets_answer_unless_the_user_gives_one(colour_set: torch.Tensor) -> None:
    assert load_dataset(colour()).flip is True
    assert load_dataset(colour(flip=False)).flip is False


def test_size_and_channels_follow_the_configuration(colour_set: torch.Tensor) -> None:
    dataset = load_dataset(colour(image_size=12, grayscale=True))
    assert (dataset.channels, dataset.image_size, len(dataset.mean_C)) == (1, 12, 1)
    assert dataset.test.fetch(torch.tensor([0, 1])).shape == (2, 1, 12, 12)


def test_native_size_of_images_that_are_not_square_is_refused() -> None:
    narrow = DatasetConfig(name=f"{HERE}:load_narrow", substitute_pool=15)
    with pytest.raises(UserError, match=r"load_narrow images are 4x6, not square; set dataset\.image_size=4"):
        load_dataset(narrow)
    assert load_dataset(dataclasses.replace(narrow, image_size=3)).image_size == 3


def test_digits_has_its_images_labels_and_sizes() -> None:
    from sklearn.datasets import load_digits

    option: Any = yaml.safe_load((CONFIGS / "digits.yaml").read_text())
    dataset = load_dataset(DigitsConfig(**{**option, "image_size": 0}))
    assert (len(dataset.train), len(dataset.substitute), len(dataset.test)) == (937, 500, 360)
    assert (dataset.num_classes, dataset.channels, dataset.image_size, dataset.flip) == (10, 1, 8, False)
    original = load_digits()
    seen: list[int] = []
    for part in (dataset.train, dataset.substitute, dataset.test):
        seen += part.positions_N.tolist()
        levels = part.fetch(torch.arange(len(part)))[:, 0].numpy() * (16 / 255)
        np.testing.assert_allclose(levels, original.images[part.positions_N], atol=0.5 * 16 / 255)
        np.testing.assert_array_equal(part.labels_N, original.target[part.positions_N])
    assert sorted(seen) == list(range(1797))


def test_digits_option_enlarges_the_images() -> None:
    option: Any = yaml.safe_load((CONFIGS / "digits.yaml").read_text())
    assert load_dataset(DigitsConfig(**option)).test.pixels().shape == (360, 1, 16, 16)
