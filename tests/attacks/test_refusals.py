"""What an attack refuses before anything is trained: one line with the setting, its value and the remedy."""

from __future__ import annotations

import pytest

from rnet.data.loading import load_dataset
from rnet.errors import UserError
from rnet.stages import stages
from tests.attacks.table import TABLE
from tests.tiny_runs import tiny


@pytest.mark.parametrize(
    ("case", "overrides", "words"),
    [
        ("finetune_labelled", ["attack.fraction=0"], ["attack.fraction=0.0", "above 0"]),
        ("finetune_labelled", ["attack.fraction=0.01"], ["attack.fraction=0.01", "use at least"]),
        ("finetune_labelled", ["attack.momentum=1"], ["attack.momentum=1.0", "below 1"]),
        ("finetune_labelled", ["attack.linear_decay=-1"], ["attack.linear_decay=-1.0", "0 or more"]),
        ("finetune_labelled", ["attack.iterations=0"], ["attack.iterations=0", "above 0"]),
        ("finetune", ["attack.augment=mirror"], ["attack.augment", "'mirror'", "flip"]),
        ("finetune", ["attack.augment=flip", "attack.crop_padding=3"], ["attack.crop_padding=3", "augment=crop"]),
        ("finetune", ["attack.augment=crop", "attack.crop_padding=0"], ["attack.crop_padding=0", "at least 1"]),
        ("knockoff", ["attack.augment=flip"], ["attack.augment=['flip']", "once", "take it out"]),
        ("adversarial_training", ["attack.epsilon=0"], ["attack.epsilon=0.0", "above 0"]),
        ("adversarial_training", ["attack.epsilon=2"], ["attack.epsilon=2.0", "at most 1"]),
        ("adversarial_training", ["attack.search_steps=0"], ["attack.search_steps=0", "at least 1"]),
        ("retrain", ["attack.layers=2"], ["attack.layers=2", "use at most 1"]),
        ("retrain", ["attack.layers=0"], ["attack.layers=0", "at least 1"]),
        ("retrain", ["attack.trained=last"], ["attack.trained", "'last'", "layers"]),
        ("retrain_unlabelled", ["attack.substitute_size=65"], ["65", "64", "dataset.substitute_pool"]),
        ("prune", ["attack.rate=1"], ["attack.rate=1.0", "below 1"]),
        ("prune", ["attack.rate=1e-9"], ["attack.rate=1e-09", "none or all"]),
        ("distill", ["attack.alpha=0"], ["attack.alpha=0.0", "above 0"]),
        ("distill", ["attack.temperature=0"], ["attack.temperature=0.0", "above 0"]),
        ("feature_distill", ["attack.layer=layer9"], ["attack.layer='layer9'", "layer3"]),
        ("feature_distill", ["attack.beta=0"], ["attack.beta=0.0", "above 0"]),
        ("knockoff", ["attack.queries=41"], ["attack.queries=41", "attack.substitute_size=40"]),
        ("knockoff", ["attack.queries=0"], ["attack.queries=0", "above 0"]),
        ("knockoff", ["attack.strategy=greedy"], ["attack.strategy", "'greedy'", "adaptive"]),
        ("knockoff", ["attack.answers=logits"], ["attack.answers", "'logits'", "posteriors"]),
        ("knockoff", ["attack.epochs=0"], ["attack.epochs=0", "at least 1"]),
        ("knockoff", ["attack.iterations=3"], ["attack.iterations"]),
        ("knockoff", ["attack.strategy=adaptive"], ["attack.queries", "below attack.substitute_size=40"]),
        ("knockoff_adaptive", ["attack.groups=labels", "substitute=victim_train"], ["groups=labels", "clusters"]),
        ("knockoff_adaptive", ["attack.round_size=1"], ["attack.round_size=1", "at least 2"]),
        ("knockoff_adaptive", ["attack.clusters=41"], ["attack.clusters=41", "attack.substitute_size=40"]),
        ("knockoff_adaptive", ["attack.substitute_size=9", "attack.queries=5"], ["attack.clusters=null", "10"]),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_in_one_line(case: str, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        stages.check_attack(tiny(*TABLE[case], *overrides))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("case", TABLE)
def test_every_case_of_the_table_passes_the_checks(case: str) -> None:
    stages.check_attack(tiny(*TABLE[case]))


def test_labelled_images_are_not_limited_by_the_attackers_pool() -> None:
    config = tiny(*TABLE["finetune_labelled"], "dataset.substitute_pool=3")
    assert len(load_dataset(config.dataset).substitute) == 3
    stages.check_attack(config)
