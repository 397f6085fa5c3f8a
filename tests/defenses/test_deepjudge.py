"""DeepJudge as a whole: what it keeps, what it says of victims, copies and others, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rnet.config.run import load_config
from rnet.data.images import Dataset
from rnet.defenses.base import Fingerprint
from rnet.defenses.deepjudge import layers
from rnet.defenses.deepjudge.black_box import most_certain
from rnet.defenses.deepjudge.config import DeepJudgeConfig
from rnet.defenses.deepjudge.defense import DeepJudge
from rnet.defenses.negatives import Negatives
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.models.resnet import SmallResNet
from tests.defenses.tiny import TinyCNN, tiny_dataset, tiny_model

NAMES = ("robd", "jsd", "lod", "lad", "nod", "nad")


def config(**changes: Any) -> DeepJudgeConfig:
    small = DeepJudgeConfig(
        layer="block1", num_seeds=9, min_seeds=2, num_fuzz_seeds=3, max_steps=20, threshold_factor=1.6, step_size=0.05
    )
    return dataclasses.replace(small, **changes)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return tiny_dataset(seed=0)


@pytest.fixture(scope="module")
def victim() -> TinyCNN:
    return tiny_model(seed=0)


@pytest.fixture(scope="module")
def fingerprint(victim: TinyCNN, dataset: Dataset) -> Fingerprint:
    return DeepJudge(config()).extract(victim, dataset, seed=0)


def assert_same(a: Fingerprint, b: Fingerprint) -> None:
    assert a.metadata == b.metadata
    assert list(a.tensors) == list(b.tensors)
    for name in a.tensors:
        assert torch.equal(a.tensors[name], b.tensors[name]), name


# --- scores


def test_another_model_is_at_a_distance_in_every_metric(fingerprint: Fingerprint) -> None:
    scores = DeepJudge(config()).verify(fingerprint, tiny_model(seed=7))
    assert tuple(scores) == tuple(metric.name for metric in DeepJudge.metrics) == NAMES
    for metric in DeepJudge.metrics:
        assert metric.low < scores[metric.name] <= metric.high
        assert metric.direction == "distance"


def test_a_slightly_changed_copy_is_nearer_than_another_model(victim: TinyCNN, fingerprint: Fingerprint) -> None:
    near_model = copy.deepcopy(victim)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in near_model.parameters():
            parameter.mul_(1 + 0.02 * torch.randn(parameter.shape, generator=generator))
    near, far = (DeepJudge(config()).verify(fingerprint, model) for model in (near_model, tiny_model(seed=7)))
    for name in ("jsd", "lod", "lad", "nod"):
        assert near[name] < far[name]


def test_scores_follow_from_the_stored_cases(fingerprint: Fingerprint) -> None:
    suspect, t = tiny_model(seed=7), fingerprint.tensors
    scores = DeepJudge(config()).verify(fingerprint, suspect)
    right = sum(int(row.argmax()) == int(y) for row, y in zip(suspect(t["case_NCHW"]), t["label_N"], strict=True))
    victim_right = sum(int(v.argmax()) == int(y) for v, y in zip(t["victim_NK"], t["label_N"], strict=True))
    assert victim_right == 0  # only cases that fool the victim are kept
    assert scores["robd"] == pytest.approx(right / len(t["label_N"]))
    z = suspect.block1((t["fuzz_NCHW"] - suspect.mean_C11) / suspect.std_C11).detach().double()
    phi_PC = z.mean(dim=(2, 3))
    own = [abs(float(phi_PC[p, c] - t["victim_phi_NC"][p, c])) for p, c in enumerate(t["neuron_N"].tolist())]
    assert scores["nod"] == pytest.approx(math.fsum(own) / len(own), rel=1e-5)
    lod = [float((phi_PC[p] - t["victim_phi_NC"][p]).norm()) for p in range(len(phi_PC))]
    assert scores["lod"] == pytest.approx(math.fsum(lod) / len(lod), rel=1e-5)


def test_nad_counts_all_targeted_neurons_even_those_without_a_case(fingerprint: Fingerprint) -> None:
    suspect = tiny_model(seed=7)
    scores = DeepJudge(config()).verify(fingerprint, suspect)
    about = fingerprint.metadata["layers"]["block1"]
    metadata = {**fingerprint.metadata, "layers": {"block1": {**about, "num_neurons": 12}}}
    more = Fingerprint(tensors=fingerprint.tensors, metadata=metadata)
    assert about["num_neurons"] == 6
    assert DeepJudge(config()).verify(more, suspect)["nad"] == pytest.approx(2 * scores["nad"])


def test_scores_do_not_depend_on_the_chunk_size(fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch) -> None:
    suspect = tiny_model(seed=7)
    expected = DeepJudge(config()).verify(fingerprint, suspect)
    monkeypatch.setattr("rnet.defenses.deepjudge.defense.samples_per_chunk", lambda *_: 2)
    assert DeepJudge(config()).verify(fingerprint, suspect) == pytest.approx(expected, abs=1e-5)


def test_scores_do_not_depend_on_the_order_of_cases(fingerprint: Fingerprint) -> None:
    black, white = ("case_NCHW", "label_N", "victim_NK"), ("fuzz_NCHW", "neuron_N", "victim_phi_NC")
    tensors = {name: fingerprint.tensors[name].flip(0) for name in (*black, *white)}
    flipped = Fingerprint(tensors=tensors, metadata=fingerprint.metadata)
    suspect = tiny_model(seed=7)
    scores = DeepJudge(config()).verify(flipped, suspect)
    assert scores == pytest.approx(DeepJudge(config()).verify(fingerprint, suspect), abs=1e-5)


# --- extraction


def test_a_fingerprint_does_not_depend_on_the_chunk_size(
    dataset: Dataset, fingerprint: Fingerprint, victim: TinyCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rnet.defenses.deepjudge.defense.samples_per_chunk", lambda *_: 2)
    chunked = DeepJudge(config()).extract(victim, dataset, seed=0)
    assert chunked.metadata == fingerprint.metadata
    for name, tensor in fingerprint.tensors.items():
        torch.testing.assert_close(chunked.tensors[name], tensor, rtol=0, atol=1e-4)


def test_metadata_says_what_was_used_and_how_much_failed(fingerprint: Fingerprint) -> None:
    t, m = fingerprint.tensors, fingerprint.metadata
    assert (m["num_classes"], m["input_shape"], m["layer"]) == (4, [3, 8, 8], "block1")
    assert [*m["layers"]] == ["block1"]
    about = m["layers"]["block1"]
    assert (about["num_channels"], about["num_neurons"], about["num_fuzzed"]) == (6, 6, len(t["fuzz_NCHW"]))
    assert m["num_seeds"] == 9
    assert m["case_share"] == m["num_cases"] / 9 == len(t["case_NCHW"]) / 9
    assert about["fuzz_failed_share"] == pytest.approx(1 - len(t["fuzz_NCHW"]) / 18)
    assert 0 < about["fuzz_failed_share"] < 1
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in t.values())


def test_fuzzed_cases_exceed_the_multiple_of_what_training_images_reach(
    victim: TinyCNN, dataset: Dataset, fingerprint: Fingerprint
) -> None:
    z = victim.block1((dataset.train.pixels() - victim.mean_C11) / victim.std_C11)
    largest_C = z.mean(dim=(2, 3)).amax(dim=0).detach()
    t = fingerprint.tensors
    own_P = t["victim_phi_NC"].gather(1, t["neuron_N"][:, None]).squeeze(1)
    assert bool((own_P > 1.6 * largest_C[t["neuron_N"]] - 1e-6).all())
    assert bool((own_P < 1.8 * largest_C[t["neuron_N"]]).all())  # and stop there


def test_seeds_that_cannot_be_turned_adversarial_are_dropped(victim: TinyCNN, dataset: Dataset) -> None:
    weak = config(epsilon=1e-4, step_size=0.004, num_steps=2, white_box=False)
    made = DeepJudge(weak).extract(victim, dataset, seed=0)
    assert 0 < made.metadata["case_share"] < 1
    assert bool((victim(made.tensors["case_NCHW"]).argmax(dim=1) != made.tensors["label_N"]).all())


def test_max_neurons_targets_so_many_of_them(victim: TinyCNN, dataset: Dataset) -> None:
    made = DeepJudge(config(max_neurons=2, black_box=False)).extract(victim, dataset, seed=0)
    assert made.metadata["layers"]["block1"]["num_neurons"] == 2
    assert len(made.tensors["neuron_N"].unique()) <= 2
    assert made.tensors["victim_phi_NC"].shape[1] == 6  # the layer distances still see all channels


@pytest.mark.parametrize("attack", ["fgsm", "cw"])
def test_other_attacks_make_cases_that_fool_the_victim(victim: TinyCNN, dataset: Dataset, attack: str) -> None:
    settings = config(
        attack=attack, epsilon=0.2, cw_steps=60, cw_learning_rate=0.05, cw_confidence=0.0, white_box=False
    )
    made = DeepJudge(settings).extract(victim, dataset, seed=0)
    case_NCHW = made.tensors["case_NCHW"]
    assert len(case_NCHW) > 0
    assert bool((victim(case_NCHW).argmax(dim=1) != made.tensors["label_N"]).all())
    assert float(case_NCHW.min()) >= 0
    assert float(case_NCHW.max()) <= 1


def test_each_half_can_be_had_alone(victim: TinyCNN, dataset: Dataset, fingerprint: Fingerprint) -> None:
    suspect = tiny_model(seed=7)
    whole = DeepJudge(config()).verify(fingerprint, suspect)
    for half, names in (("black_box", NAMES[2:]), ("white_box", NAMES[:2])):
        defense = DeepJudge(config(**{half: False}))
        scores = defense.verify(fingerprint, suspect)
        assert scores == {name: whole[name] for name in names}
        made = defense.extract(victim, dataset, seed=0)
        assert defense.verify(made, suspect) == pytest.approx(scores, abs=1e-6)
        with pytest.raises(UserError, match=rf"defense.{half}=true"):
            DeepJudge(config()).verify(made, suspect)


# --- layers


@pytest.fixture(scope="module")
def cut_victim(dataset: Dataset) -> Classifier:
    """A victim that says where it is cut: relu, layer1, layer2, layer3."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = SmallResNet(num_classes=4, width=3)
    cuts = ("relu", "layer1", "layer2", "layer3")
    return Classifier(backbone, dataset.mean_C, dataset.std_C, cut_layers=cuts).eval()


def cut_config(**changes: Any) -> DeepJudgeConfig:
    return config(**{"layer": None, "threshold_factor": 1.02, "num_fuzz_seeds": 2, "min_seeds": 1, **changes})


def test_all_layers_in_one_run_are_one_run_for_each_layer_exactly(cut_victim: Classifier, dataset: Dataset) -> None:
    settings = {"black_box": False, "max_neurons": 3}
    suspect = copy.deepcopy(cut_victim)
    with torch.no_grad():
        for parameter in suspect.parameters():
            parameter.mul_(1.05)
    whole = DeepJudge(cut_config(**settings))
    made = whole.extract(cut_victim, dataset, seed=3)
    scores = whole.verify(made, suspect)
    assert made.metadata["layer"] == "layer2"
    assert [*made.metadata["layers"]] == ["relu", "layer1", "layer2", "layer3"]
    assert len(scores) == 16
    for layer in made.metadata["layers"]:
        alone = DeepJudge(cut_config(**settings, layers="headline", layer=layer))
        one = alone.extract(cut_victim, dataset, seed=3)
        suffix = "" if layer == "layer2" else f"@{layer}"
        for name in ("fuzz_NCHW", "neuron_N", "victim_phi_NC"):
            assert torch.equal(made.tensors[f"{name}{suffix}"], one.tensors[name])
        assert {
            f"{name}{suffix}": score for name, score in alone.verify(one, suspect).items()
        }.items() <= scores.items()
    assert set(whole.verify(made, cut_victim).values()) == {0.0}


def test_only_the_headlines_metrics_are_named_without_a_layer_and_vote(
    cut_victim: Classifier, dataset: Dataset
) -> None:
    defense = DeepJudge(cut_config(layer="relu"))
    made = defense.extract(cut_victim, dataset, seed=3)
    scores = defense.verify(made, tiny_cut(dataset, seed=1))
    metrics = defense.metrics_of(scores)
    assert [metric.name for metric in metrics[:6]] == list(NAMES)
    others = [metric.name for metric in metrics[6:]]
    assert others == [f"{name}@{layer}" for layer in ("layer1", "layer2", "layer3") for name in NAMES[2:]]
    assert {metric.name for metric in metrics} == scores.keys()
    assert {(m.direction, m.low, m.access) for m in metrics[6:]} == {("distance", 0.0, "white_box")}
    assert [m.name for m in defense.metrics_of(["nod@layer3", "lod@layer3", "jsd", "mood@layer3", "x"])] == [
        "jsd", "lod@layer3", "nod@layer3",
    ]  # fmt: skip
    alone = DeepJudge(cut_config(layer="relu", layers="headline"))
    assert alone.verify(made, tiny_cut(dataset, seed=1)).keys() == {*NAMES}


def tiny_cut(dataset: Dataset, seed: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(SmallResNet(num_classes=4, width=3), dataset.mean_C, dataset.std_C).eval()


def test_another_layer_without_a_case_is_left_out_and_said(
    cut_victim: Classifier, dataset: Dataset, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = layers._targets

    def targets(config: DeepJudgeConfig, phi: Any, *more: Any) -> Any:
        neuron_M, threshold_M, channels = real(config, phi, *more)
        return neuron_M, threshold_M if channels == 6 else threshold_M + 1e9, channels  # layer2 has 6

    monkeypatch.setattr(layers, "_targets", targets)
    defense = DeepJudge(cut_config(black_box=False))
    made = defense.extract(cut_victim, dataset, seed=3)
    assert defense.verify(made, cut_victim) == dict.fromkeys(NAMES[2:], 0.0)
    assert made.metadata["layers"]["relu"]["num_fuzzed"] == 0
    assert "pairs of layer3" in caplog.text


# --- choices of the sources


def test_neurons_may_be_image_columns(victim: TinyCNN, dataset: Dataset) -> None:
    settings = config(neuron="column", black_box=False, threshold_factor=1.02)
    made = DeepJudge(settings).extract(victim, dataset, seed=0)
    assert made.metadata["layers"]["block1"]["num_channels"] == made.tensors["victim_phi_NC"].shape[1] == 8
    assert DeepJudge(settings).verify(made, victim) == dict.fromkeys(NAMES[2:], 0.0)


def test_the_first_neurons_may_be_targeted_and_thresholds_come_from_the_seeds(
    victim: TinyCNN, dataset: Dataset
) -> None:
    settings = config(
        neurons="first", max_neurons=2, black_box=False, threshold_from="seeds", threshold_margin=0.01,
        threshold_factor=1.0,
    )  # fmt: skip
    made = DeepJudge(settings).extract(victim, dataset, seed=0)
    logits_NK = victim(dataset.test.pixels()).detach()
    seeds_N = most_certain(logits_NK, dataset.test.labels_N, 9)
    z = victim.block1((dataset.test.pixels(seeds_N) - victim.mean_C11) / victim.std_C11).detach()
    largest_C = z.mean(dim=(2, 3)).amax(dim=0)
    t = made.tensors
    assert set(t["neuron_N"].tolist()) == {0, 1}
    own_P = t["victim_phi_NC"].gather(1, t["neuron_N"][:, None]).squeeze(1) - largest_C[t["neuron_N"]]
    assert bool((own_P > 0.01 - 1e-6).all())
    assert bool((own_P < 0.2).all())


def test_with_the_victims_labels_robd_is_one_minus_the_matching_rate(fingerprint: Fingerprint) -> None:
    suspect = tiny_model(seed=7)
    settings = config(robd_labels="victim", white_box=False)
    t = fingerprint.tensors
    match = (suspect(t["case_NCHW"]).argmax(dim=1) == t["victim_NK"].argmax(dim=1)).double().mean()
    assert DeepJudge(settings).verify(fingerprint, suspect)["robd"] == pytest.approx(1 - float(match))
    assert DeepJudge(config()).verify(fingerprint, suspect)["robd"] != pytest.approx(1 - float(match))


def test_seeds_ranked_by_logits_are_others(victim: TinyCNN, dataset: Dataset) -> None:
    few = {"white_box": False, "num_seeds": 3, "step_size": 0.1}
    made = [
        DeepJudge(config(**few, seed_rank=rank)).extract(victim, dataset, seed=0)
        for rank in ("probabilities", "logits")
    ]
    logits_NK = victim(dataset.test.pixels()).detach().double()
    right = (logits_NK.argmax(dim=1) == dataset.test.labels_N).nonzero().squeeze(1).tolist()
    for fingerprint, scores_NK in zip(made, (logits_NK.softmax(dim=1), logits_NK), strict=True):
        best = sorted(right, key=lambda i: -float(scores_NK[i].square().sum()))[:3]
        nearest = [
            int((dataset.test.pixels() - case).abs().flatten(1).sum(dim=1).argmin())
            for case in fingerprint.tensors["case_NCHW"]
        ]
        assert nearest
        assert set(nearest) <= set(best)
    assert not torch.equal(made[0].tensors["case_NCHW"], made[1].tensors["case_NCHW"])


@pytest.mark.parametrize("attack", ["pgd", "fgsm"])
def test_cases_in_the_scalar_box_leave_pixel_space_and_ours_do_not(
    victim: TinyCNN, dataset: Dataset, attack: str
) -> None:
    for clamp in ("pixels", "scalar"):
        settings = config(clamp=clamp, attack=attack, epsilon=0.2, units="normalised", white_box=False)
        cases = DeepJudge(settings).extract(victim, dataset, seed=0).tensors["case_NCHW"]
        assert (float(cases.min()) < 0 or float(cases.max()) > 1) == (clamp == "scalar")


def test_sizes_in_normalised_units_are_multiples_of_a_channels_standard_deviation(
    victim: TinyCNN, dataset: Dataset
) -> None:
    settings = config(
        units="normalised", epsilon=0.3, step_size=0.05, num_steps=40, project=True, clamp="scalar", num_seeds=4,
        white_box=False,
    )  # fmt: skip
    made = DeepJudge(settings).extract(victim, dataset, seed=0)
    pixels = dataset.test.pixels()
    for case in made.tensors["case_NCHW"]:
        offsets_NC = (pixels - case).abs().amax(dim=(2, 3))
        nearest_C = offsets_NC[offsets_NC.sum(dim=1).argmin()]
        torch.testing.assert_close(nearest_C, 0.3 * torch.tensor(dataset.std_C))  # at the edge of the ball


def test_without_a_random_start_the_seed_of_the_run_does_not_matter(victim: TinyCNN, dataset: Dataset) -> None:
    for random_start in (True, False):
        defense = DeepJudge(config(random_start=random_start, white_box=False))
        one, other = (defense.extract(victim, dataset, seed=seed).tensors["case_NCHW"] for seed in (0, 1))
        assert torch.equal(one, other) != random_start


PROFILES: dict[str, dict[str, Any]] = {
    "original": {
        "num_seeds": 1000, "seed_rank": "probabilities", "attack": "pgd", "epsilon": 0.03, "step_size": 0.03,
        "num_steps": 10, "random_start": True, "project": False, "clamp": "pixels", "units": "pixels",
        "cw_confidence": 5.0, "cw_learning_rate": 0.001, "cw_steps": 1000, "cw_searches": 3, "cw_abort_early": True,
        "robd_labels": "true", "num_fuzz_seeds": 100, "neuron": "channel", "max_neurons": None, "neurons": "drawn",
        "threshold_factor": 3.0, "threshold_margin": 0.0, "threshold_from": "train", "threshold_images": 20000,
        "adam": "keras", "learning_rate": 0.01, "max_steps": 1000, "box": False, "best_attempt": False,
        "equal_cases": False,
    },
    "released": {
        "num_seeds": 1000, "seed_rank": "logits", "attack": "pgd", "epsilon": 0.1, "step_size": 10 / 255,
        "num_steps": 40, "random_start": True, "project": True, "clamp": "scalar", "units": "normalised",
        "robd_labels": "victim", "num_fuzz_seeds": 1000, "neuron": "column", "max_neurons": 32, "neurons": "first",
        "threshold_factor": 3.0, "threshold_margin": 0.2, "threshold_from": "seeds", "adam": "torch",
        "learning_rate": 0.1, "max_steps": 1000, "box": False, "best_attempt": True, "equal_cases": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_sets_all_choices_of_its_source(profile: str, victim: TinyCNN, dataset: Dataset) -> None:
    chosen = load_config(["defense=deepjudge", f"defense.profile={profile}"]).defense
    assert {key: getattr(chosen, key) for key in PROFILES[profile]} == PROFILES[profile]
    small = {"layer": "block1", "num_seeds": 9, "min_seeds": 2, "num_fuzz_seeds": 2, "max_steps": 30}
    defense = DeepJudge(dataclasses.replace(chosen, **small, threshold_factor=1.1))
    made = defense.extract(victim, dataset, seed=0)
    assert defense.verify(made, victim) == dict.fromkeys(NAMES, 0.0)
    counts = made.tensors["neuron_N"].unique(return_counts=True)[1]
    assert profile == "original" or (len(counts) == 8 and len(set(counts.tolist())) == 1)


# --- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_seeds": 1000, "min_seeds": 40}, r"only \d+ of 48 test images correctly.*defense.min_seeds=40"),
        ({"layer": "block9"}, r"defense\.layer='block9' is not a module of TinyCNN; did you mean block"),
        ({"layer": None}, r"defense\.layer is not set and TinyCNN has no usual cut layer.*one of block1, block2"),
        ({"threshold_factor": 1e6}, r"none of 18 \(seed, neuron\) pairs of block1"),
        ({"epsilon": 1e-6, "step_size": 1e-6}, r"fools the victim on none of 9 seeds"),
        ({"max_fingerprint_mb": 1, "num_fuzz_seeds": 9, "layer": "block2"}, ""),
    ],
)
def test_a_victim_that_cannot_be_fingerprinted_is_refused_with_a_remedy(
    victim: TinyCNN, dataset: Dataset, changes: dict[str, Any], message: str
) -> None:
    if not message:  # 9 seeds x 12 neurons x 768 bytes fit into 1 MiB
        DeepJudge(config(**changes)).extract(victim, dataset, seed=0)
        return
    with pytest.raises(UserError, match=message):
        DeepJudge(config(**changes)).extract(victim, dataset, seed=0)


def test_a_fingerprint_too_large_to_keep_is_refused_before_it_is_made() -> None:
    dataset = tiny_dataset(image_size=64, train=8, test=60)
    settings = config(max_fingerprint_mb=1, black_box=False, num_fuzz_seeds=9)
    with pytest.raises(UserError, match=r"6 neurons of block1 from 9 seeds could take 3 MiB.*max_neurons=2"):
        DeepJudge(settings).extract(tiny_model(image_size=64), dataset, seed=0)


@pytest.mark.parametrize(
    ("cuts", "layer", "used"),
    [
        (["a", "b", "c", "d", "e"], None, "d"),
        (["a", "b", "c", "d"], None, "c"),
        (["a", "b", "c"], None, "c"),
        (["a", "b"], None, "a"),
        (["a"], None, "a"),
        (["a"], "z", "z"),
    ],
)
def test_the_headline_layer_is_the_configured_one_or_the_last_but_one_unless_attacks_cut_there(
    cuts: list[str], layer: str | None, used: str, dataset: Dataset
) -> None:
    victim = Classifier(nn.Identity(), dataset.mean_C, dataset.std_C, cut_layers=cuts)
    assert layers.headline_layer(config(layer=layer), victim) == used
    assert len(cuts) < 2 or used != victim.cut_layer
    assert layers.looked_at(config(layer=layer), victim) == (cuts if layer is None else [*cuts, layer])
    assert layers.looked_at(config(layer=layer, layers="headline"), victim) == [used]


def test_six_distances_vote_where_there_are_two_negatives() -> None:
    scores = [{metric.name: 0.5 + shift for metric in DeepJudge.metrics} for shift in (0.0, 0.001)]
    copy = {metric.name: 0.01 for metric in DeepJudge.metrics} | {"robd": 0.49}
    found = DeepJudge(config()).judge(copy, Negatives.of(scores), 0.05)
    assert found.overall == found.vote
    assert (found.overall.label, found.overall.reason[:6]) == ("derived", "5 of 6")
    assert found.metrics.keys() == copy.keys()
    assert DeepJudge(config()).judge(copy, Negatives.of(scores[:1]), 0.05).vote is None


def test_a_suspect_of_another_architecture_gets_black_box_scores_only(fingerprint: Fingerprint) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(192, 4)

        def forward(self, x_BCHW: Tensor) -> Tensor:
            return self.linear(x_BCHW.flatten(1))

    for suspect, reason in (
        (Other(), "need the victim's cut layer in the suspect"),
        (tiny_model(width=5), "5 channels in the suspect and 6 in the victim"),
    ):
        with pytest.raises(UserError, match=rf"{reason}.*defense.white_box=false"):
            DeepJudge(config()).verify(fingerprint, suspect)
        assert set(DeepJudge(config(white_box=False)).verify(fingerprint, suspect)) == {"robd", "jsd"}
