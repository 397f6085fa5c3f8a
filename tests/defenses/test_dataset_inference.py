"""Dataset Inference: the walks, the regressor, the test, and the p value of overfitted and of innocent models."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from scipy import stats
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.defenses.base import Fingerprint
from rnet.defenses.calibration import verdict
from rnet.defenses.dataset_inference.blind_walk import directions
from rnet.defenses.dataset_inference.config import DatasetInferenceConfig
from rnet.defenses.dataset_inference.defense import DatasetInference
from rnet.defenses.dataset_inference.p_values import draw_samples, harmonic_mean, welch_p_values
from rnet.defenses.dataset_inference.regressor import mixed_rows, regress, scaling, train_regressor
from rnet.rewrites.modes import frozen_eval
from tests.defenses.tiny import TinyCNN, tiny_dataset, tiny_model


def config(**changes: Any) -> DatasetInferenceConfig:
    small = DatasetInferenceConfig(
        num_regressor_images=24, num_suspect_images=24, num_directions=2, max_multiple=12,
        linf_radius=0.03, l2_std=0.03, l1_scale=0.03, hidden_size=16, regressor_steps=150, sample_size=8, num_draws=20,
    )  # fmt: skip
    return dataclasses.replace(small, **changes)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return tiny_dataset(seed=0)


@pytest.fixture(scope="module")
def victim(dataset: Dataset) -> TinyCNN:
    """Knows its 48 random labels by heart."""
    model = tiny_model(seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x_NCHW, label_N = dataset.train.pixels(), dataset.train.labels_N
    for _ in range(120):
        optimizer.zero_grad()
        F.cross_entropy(model(x_NCHW), label_N).backward()
        optimizer.step()
    optimizer.zero_grad()
    assert float((model(x_NCHW).argmax(dim=1) == label_N).float().mean()) == 1.0
    return model


@pytest.fixture(scope="module")
def fingerprint(victim: TinyCNN, dataset: Dataset) -> Fingerprint:
    return DatasetInference(config()).extract(victim, dataset, seed=0)


# --- what it says


def test_a_victim_that_overfits_gets_a_small_p_and_so_does_its_copy(victim: TinyCNN, fingerprint: Fingerprint) -> None:
    own = fingerprint.metadata["victim_p_value"]
    assert own < 1e-3
    for suspect in (victim, copy.deepcopy(victim)):
        scores = DatasetInference(config()).verify(fingerprint, suspect)
        assert scores == {"log10_p_value": math.log10(own), "p_value": own}


def test_models_that_never_saw_the_private_images_get_large_p_values(fingerprint: Fingerprint) -> None:
    found = [DatasetInference(config()).verify(fingerprint, tiny_model(seed=s)) for s in range(1, 6)]
    assert min(scores["p_value"] for scores in found) > 0.01
    assert list(found[0]) == [metric.name for metric in DatasetInference.metrics]
    for metric in DatasetInference.metrics:
        assert all(metric.low <= scores[metric.name] <= metric.high for scores in found)
        assert (metric.direction, metric.access) == ("distance", "labels")


def test_on_their_scales_negatives_calibrate_both_metrics(victim: TinyCNN, fingerprint: Fingerprint) -> None:
    models = [victim, *(tiny_model(seed=s) for s in range(1, 6))]
    own, *others = (DatasetInference(config()).verify(fingerprint, model) for model in models)
    labels = {
        metric.name: verdict(own[metric.name], [scores[metric.name] for scores in others], metric).label
        for metric in DatasetInference.metrics
    }
    assert labels == {"log10_p_value": "derived", "p_value": "derived"}


def test_the_p_value_does_not_depend_on_the_chunk_size(fingerprint: Fingerprint, victim: TinyCNN) -> None:
    suspect = tiny_model(seed=3)
    expected = DatasetInference(config()).verify(fingerprint, suspect)["p_value"]
    small = DatasetInference(config(memory_mb=1)).verify(fingerprint, suspect)["p_value"]
    assert small == pytest.approx(expected, abs=1e-5)


def test_only_labels_count(fingerprint: Fingerprint) -> None:
    suspect = tiny_model(seed=3)
    rescaled = copy.deepcopy(suspect)
    with torch.no_grad():
        rescaled.classifier.weight.mul_(0.125)
        rescaled.classifier.bias.mul_(0.125)
    scores = [DatasetInference(config()).verify(fingerprint, model) for model in (suspect, rescaled)]
    assert scores[0] == scores[1]


def test_suspects_are_tested_on_images_the_regressor_never_saw(
    victim: TinyCNN, dataset: Dataset, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[Tensor] = []
    noise: list[str] = []
    original = DatasetInference.margins

    def record(
        self: DatasetInference,
        model: nn.Module,
        images_NCHW: Tensor,
        label_N: Tensor,
        seed: int,
        purpose: str,
        **more: Any,
    ) -> Tensor:
        walked.append(images_NCHW)
        noise.append(purpose)
        return original(self, model, images_NCHW, label_N, seed, purpose, **more)

    monkeypatch.setattr(DatasetInference, "margins", record)
    made = DatasetInference(config()).extract(victim, dataset, seed=0)
    private, public, suspect_private, suspect_public = walked
    assert len(set(noise)) == 4  # no two sets of images share their directions
    assert torch.equal(suspect_private, made.tensors["private_NCHW"])
    assert torch.equal(suspect_public, made.tensors["public_NCHW"])
    for images, part in (
        (torch.cat([private, suspect_private]), "train"),
        (torch.cat([public, suspect_public]), "test"),
    ):
        assert len(images.unique(dim=0)) == 48
        pool = getattr(dataset, part).fetch(torch.arange(48))
        assert torch.equal(images.unique(dim=0), pool.unique(dim=0))


def test_metadata_says_what_was_used(fingerprint: Fingerprint) -> None:
    m = fingerprint.metadata
    assert (m["num_classes"], m["input_shape"]) == (4, [3, 8, 8])
    assert (m["num_regressor_images"], m["num_suspect_images"]) == (24, 24)
    assert all(t.is_contiguous() and t.device.type == "cpu" for t in fingerprint.tensors.values())


# --- the walks


def loop_margin(model: nn.Module, x_CHW: Tensor, label: int, delta_CHW: Tensor, most: int, order: str) -> float:
    """One walk: multiples 1, 2, ... until the label is lost, clamped; the norm of what was added."""
    for multiple in range(1, most + 1):
        there = (x_CHW + multiple * delta_CHW).clamp(0, 1)
        if multiple == most or int(model(there[None])[0].argmax()) != label:
            break
    added = [float(v) for v in (there.double() - x_CHW.double()).flatten()]
    norms = {
        "linf": max(abs(v) for v in added),
        "l2": math.sqrt(math.fsum(v * v for v in added)),
        "l1": math.fsum(abs(v) for v in added),
    }
    return norms[order]


@pytest.mark.parametrize("most", [1, 5, 12])
def test_margins_equal_one_walk_at_a_time(victim: TinyCNN, dataset: Dataset, most: int) -> None:
    defense = DatasetInference(config(max_multiple=most))
    images_NCHW, label_N = dataset.train.fetch(torch.arange(4)), dataset.train.labels_N[:4].clone()
    label_N[3] = (label_N[3] + 1) % 4  # one the victim gets wrong from the start
    found_NF = defense.margins(victim, images_NCHW, label_N, 0, "walks")
    assert found_NF.shape == (4, 6)
    with frozen_eval(victim):
        for n in range(4):
            x_1CHW = images_NCHW[n : n + 1].float() / 255
            delta_FCHW = directions(defense.config, x_1CHW, torch.tensor([n]), 0, "walks")[0]
            for f, order in enumerate(("linf", "linf", "l2", "l2", "l1", "l1")):
                expected = loop_margin(victim, x_1CHW[0], int(label_N[n]), delta_FCHW[f], most, order)
                assert float(found_NF[n, f]) == pytest.approx(expected, rel=1e-5)


class Stripes(nn.Module):
    """The label changes back and forth with the brightness: a walk may cross several boundaries."""

    def __init__(self) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.tensor(60.0))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        wave_B = torch.sin(self.frequency * x_BCHW.flatten(1).sum(dim=1))
        return torch.stack([wave_B, -wave_B], dim=1)


def test_a_walk_ends_where_the_label_is_first_lost_even_if_it_comes_back() -> None:
    model, defense = Stripes(), DatasetInference(config())
    images_NCHW = torch.randint(0, 256, (6, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x_NCHW = images_NCHW.float() / 255
    label_N = model(x_NCHW).argmax(dim=1)
    found_NF = defense.margins(model, images_NCHW, label_N, 0, "walks")
    delta_NFCHW = directions(defense.config, x_NCHW, torch.arange(6), 0, "walks")
    for n in range(6):
        for f, order in enumerate(("linf", "linf", "l2", "l2", "l1", "l1")):
            expected = loop_margin(model, x_NCHW[n], int(label_N[n]), delta_NFCHW[n, f], 12, order)
            assert float(found_NF[n, f]) == pytest.approx(expected, rel=1e-5)


def test_a_walk_that_never_flips_ends_at_the_multiple_for_that(victim: TinyCNN, dataset: Dataset) -> None:
    images_NCHW, label_N = dataset.train.fetch(torch.arange(12)), dataset.train.labels_N[:12]
    at_cap, beyond = (
        DatasetInference(config(max_multiple=4, capped_multiple=capped)).margins(victim, images_NCHW, label_N, 0, "w")
        for capped in (None, 5)
    )
    x_NCHW = images_NCHW.float() / 255
    flipped = torch.zeros(12, 6, dtype=torch.bool)
    with frozen_eval(victim):
        delta_NFCHW = directions(config(), x_NCHW, torch.arange(12), 0, "w")
        for multiple in range(1, 5):
            there = (x_NCHW[:, None] + multiple * delta_NFCHW).clamp(0, 1)
            flipped |= victim(there.flatten(0, 1)).argmax(dim=1).view(12, 6) != label_N[:, None]
    assert 0 < int(flipped.sum()) < 72
    assert torch.equal(at_cap[flipped], beyond[flipped])
    ratio = (beyond / at_cap)[~flipped]
    assert 1 < float(ratio.min()) <= float(ratio.max()) <= 1.25 + 1e-6
    assert float(ratio.max()) == pytest.approx(1.25, rel=1e-5)  # one step more, where the box does not cut it


def test_some_walks_end_early_and_some_at_the_last_multiple(victim: TinyCNN, dataset: Dataset) -> None:
    images_NCHW, label_N = dataset.train.fetch(torch.arange(20)), dataset.train.labels_N[:20]
    short, long = (
        DatasetInference(config(max_multiple=most)).margins(victim, images_NCHW, label_N, 0, "walks")
        for most in (3, 30)
    )
    assert bool((short <= long + 1e-9).all())
    assert bool((short == long).any())
    assert bool((short < long).any())


def test_margins_do_not_depend_on_which_images_come_along(victim: TinyCNN, dataset: Dataset) -> None:
    images_NCHW, label_N = dataset.train.fetch(torch.arange(9)), dataset.train.labels_N[:9]
    defense = DatasetInference(config())
    whole = defense.margins(victim, images_NCHW, label_N, 0, "walks")
    torch.testing.assert_close(defense.margins(victim, images_NCHW[:2], label_N[:2], 0, "walks"), whole[:2])


def test_directions_have_the_three_distributions() -> None:
    defense = DatasetInference(config(num_directions=4, linf_radius=0.005, l2_std=0.005, l1_scale=0.01))
    x_BCHW = torch.zeros(20, 3, 8, 8)
    noise = directions(defense.config, x_BCHW, torch.arange(20), 0, "shape").double().view(20, 3, -1)
    families = (stats.uniform(-0.005, 0.01), stats.norm(0, 0.005), stats.laplace(0, 0.01))
    for i, family in enumerate(families):
        assert stats.kstest(noise[:, i].flatten().numpy(), family.cdf).pvalue > 1e-3
    assert float(noise[:, 0].abs().max()) <= 0.005
    assert len({tuple(row.tolist()) for row in noise.flatten(0, 1)[:, :5]}) == 60  # no direction is drawn twice


def test_directions_of_another_purpose_are_others() -> None:
    defense, x_BCHW = DatasetInference(config()), torch.zeros(1, 3, 8, 8)
    one, two = (directions(defense.config, x_BCHW, torch.arange(1), 0, purpose) for purpose in ("train", "test"))
    assert not torch.isclose(one, two).any()


# --- regressor and test


def test_the_notebooks_rows_mix_one_feature_of_many_images() -> None:
    margins_NF = torch.arange(20 * 6).view(20, 6).double()
    # As the notebook does it: a table (images, directions, norms), all its axes turned round, cut into rows.
    table = margins_NF.numpy().reshape(20, 3, 2).transpose(0, 2, 1)
    expected = table.T.reshape(20, 6)
    assert np.array_equal(mixed_rows(margins_NF).numpy(), expected)
    assert mixed_rows(margins_NF)[0].tolist() == margins_NF[:6, 0].tolist()


def test_with_the_notebooks_rows_the_p_value_is_what_its_arithmetic_gives(victim: TinyCNN, dataset: Dataset) -> None:
    settings = config(rows="notebook", num_regressor_images=20, num_suspect_images=24, sample_size=24, num_draws=1)
    defense = DatasetInference(settings)
    made = defense.extract(victim, dataset, seed=0)
    assert len(made.tensors["private_NCHW"]) == len(made.tensors["public_NCHW"]) == 44
    suspect, values = tiny_model(seed=3), []
    for kind, name in (("train", "private"), ("test", "public")):
        x_NCHW, label_N = made.tensors[f"{name}_NCHW"], made.tensors[f"{name}_N"]
        table = defense.margins(suspect, x_NCHW, label_N, 0, f"suspect/{kind}").numpy()
        table = (table - made.tensors["mean_F"].numpy()) / made.tensors["std_F"].numpy()
        rows = np.stack([table.T.flatten()[6 * n : 6 * n + 6] for n in range(44)])
        values.append(regress(made.tensors, torch.from_numpy(rows[20:])).numpy())
    expected = stats.ttest_ind(*values, equal_var=False, alternative="greater").pvalue
    assert defense.verify(made, suspect)["p_value"] == pytest.approx(expected, rel=1e-6)
    own = DatasetInference(config()).extract(victim, dataset, seed=0).tensors["private_NCHW"]
    assert len(own) == 24  # as the paper describes it only images the regressor never saw are needed


def test_scaling_pools_the_directions_of_a_norm() -> None:
    margins_NF = torch.rand(7, 6, generator=torch.Generator().manual_seed(0)).double()
    margins_NF[:, 4:] = 2.0
    mean_F, std_F = scaling(margins_NF)
    for norm in range(2):
        values = margins_NF[:, 2 * norm : 2 * norm + 2].flatten().tolist()
        mean = math.fsum(values) / 14
        assert mean_F[2 * norm : 2 * norm + 2].tolist() == pytest.approx([mean] * 2)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / 13)
        assert std_F[2 * norm : 2 * norm + 2].tolist() == pytest.approx([deviation] * 2)
    assert std_F[4:].tolist() == [1.0, 1.0]  # a margin that never varies is not divided by 0


def test_the_regressor_is_plain_gradient_descent_on_the_signed_mean_output() -> None:
    generator = torch.Generator().manual_seed(0)
    private_NF, public_NF = (torch.randn(5, 3, generator=generator).double() for _ in range(2))
    found = [
        {k: v.numpy() for k, v in train_regressor(
            private_NF, public_NF, hidden_size=4, learning_rate=0.1, steps=steps, seed=0
        ).items()}
        for steps in (0, 1)
    ]  # fmt: skip
    start, after = found

    def loss(w: dict[str, np.ndarray]) -> float:
        total = 0.0
        for sign, rows in ((-1.0, private_NF.numpy()), (1.0, public_NF.numpy())):
            for row in rows:
                hidden = np.maximum(w["hidden_weight"] @ row + w["hidden_bias"], 0)
                total += sign * math.tanh(float(w["output_weight"][0] @ hidden + w["output_bias"][0])) / 10
        return total

    for name, value in start.items():
        for index in np.ndindex(value.shape):
            sides = []
            for side in (1e-6, -1e-6):
                moved = {k: v.copy() for k, v in start.items()}
                moved[name][index] += side
                sides.append(loss(moved))
            slope = (sides[0] - sides[1]) / 2e-6
            assert after[name][index] == pytest.approx(value[index] - 0.1 * slope, abs=1e-8)


def test_the_regressor_rates_private_images_higher() -> None:
    generator = torch.Generator().manual_seed(0)
    private_NF, public_NF = (torch.randn(40, 6, generator=generator).double() + shift for shift in (0.7, -0.7))
    weights = train_regressor(private_NF, public_NF, hidden_size=100, learning_rate=0.1, steps=300, seed=0)
    assert weights["hidden_weight"].shape == (100, 6)
    private_N, public_N = regress(weights, private_NF), regress(weights, public_NF)
    assert float(private_N.mean()) > 0.8
    assert float(public_N.mean()) < -0.8
    assert float(torch.cat([private_N, public_N]).abs().max()) <= 1


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 12), st.floats(-2, 2), st.floats(0.1, 5))
def test_p_values_are_scipys_welch_test(seed: int, size: int, shift: float, spread: float) -> None:
    generator = np.random.default_rng(seed)
    private_RS, public_RS = generator.normal(shift, 1, (4, size)), generator.normal(0, spread, (4, size))
    expected = stats.ttest_ind(private_RS, public_RS, axis=1, equal_var=False, alternative="greater").pvalue
    assert welch_p_values(private_RS, public_RS) == pytest.approx(expected, rel=1e-9)


def test_samples_that_do_not_vary_still_give_a_p_value() -> None:
    ones, zeros = np.ones((1, 4)), np.zeros((1, 4))
    assert welch_p_values(ones, zeros).tolist() == [0.0]
    assert welch_p_values(ones, ones).tolist() == [0.5]
    assert welch_p_values(zeros, ones).tolist() == [1.0]
    assert 0 < harmonic_mean(np.array([0.0, 0.5])) < 1e-300


def test_p_values_are_averaged_harmonically() -> None:
    assert harmonic_mean(np.array([0.1, 0.2, 0.4])) == pytest.approx(3 / (10 + 5 + 2.5))


def test_samples_are_drawn_without_replacement_and_apart() -> None:
    private_N, public_N = np.arange(12.0), np.arange(12.0)
    private_RS, public_RS = draw_samples(private_N, public_N, 5, 30, seed=0)
    assert private_RS.shape == public_RS.shape == (30, 5)
    assert all(len(set(row)) == 5 for row in (*private_RS, *public_RS))
    assert len({tuple(row) for row in private_RS}) == 30
    assert not np.array_equal(private_RS, public_RS)
    assert set(private_RS.flatten()) == set(private_N)
