"""The negatives of a run: how kinds are dealt, what each is trained on, and what its result says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from rnet.attacks.independent.attack import Independent
from rnet.attacks.independent.config import IndependentConfig
from rnet.config.documents import content_id, run_from_dict, run_to_dict
from rnet.config.run import load_config
from rnet.data.loading import load_dataset
from rnet.errors import UserError
from rnet.stages import stages
from rnet.stages.graph import document, negative_configs
from rnet.stages.store import Store
from tests.tiny_runs import tiny


def kinds(*overrides: str) -> list[tuple[int | None, str, str]]:
    found = [negative.attack for negative in negative_configs(tiny(*overrides))]
    return [(attack.seed, attack.portion, attack.model.name if attack.model else "") for attack in found]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["negatives=2"], [(1000, "all", ""), (1001, "all", "")]),
        (["negatives=2", "seed=4"], [(5000, "all", ""), (5001, "all", "")]),
        (["negatives=1", "defense=dataset_inference"], [(1000, "disjoint", "")]),
        (["negatives=1", "defense=dataset_inference", "negative_kinds=seeds"], [(1000, "all", "")]),
        (
            ["negatives=5", "negative_kinds=halves,seeds"],
            [(1000, "first_half", ""), (1001, "all", ""), (1002, "second_half", ""), (1003, "all", ""),
             (1004, "first_half", "")],
        ),
        (
            ["negatives=4", "negative_kinds=architectures,disjoint", "negative_models=resnet20,resnet18"],
            [(1000, "all", "resnet20"), (1001, "disjoint", ""), (1002, "all", "resnet18"), (1003, "disjoint", "")],
        ),
    ],
)  # fmt: skip
def test_kinds_are_dealt_in_turn(overrides: Sequence[str], expected: list[tuple[int | None, str, str]]) -> None:
    assert kinds(*overrides) == expected


def test_a_negative_has_the_id_of_the_same_model_as_a_suspect() -> None:
    run = tiny("negatives=3", "negative_kinds=seeds,halves,architectures", "negative_models=resnet20")
    settings = ([], ["attack.portion=first_half"], ["attack.model=resnet20"])
    for number, (negative, own) in enumerate(zip(negative_configs(run), settings, strict=True)):
        alone = tiny("attack=independent", f"attack.seed={1000 + number}", *own)
        assert document("attack", negative) == document("attack", alone)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["negative_kinds=halfs"], ["negative_kinds", "halfs", "halves"]),
        (["negative_kinds=architectures"], ["negative_models", "set both"]),
        (["negative_models=resnet20"], ["negative_kinds", "take negative_models out"]),
        (["negative_kinds=architectures", "negative_models=resnet21"], ["resnet21", "resnet20"]),
    ],
)
def test_kinds_that_cannot_be_are_refused(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(overrides)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_configuration_with_architectures_survives_as_plain_data() -> None:
    run = tiny("negatives=1", "negative_kinds=architectures", "negative_models=resnet20")
    assert run_from_dict(run_to_dict(run)) == run


def test_disjoint_negatives_see_no_image_of_the_victim() -> None:
    dataset = load_dataset(tiny().dataset)
    seen = {portion: {*Independent(IndependentConfig(portion=portion)).portion(dataset).positions_N.tolist()}
            for portion in ("all", "first_half", "disjoint")}  # fmt: skip
    assert not seen["disjoint"] & seen["all"]
    assert seen["first_half"] < seen["all"]


def test_a_pool_without_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"attack\.portion=disjoint holds no image; raise dataset\.substitute_pool"):
        stages.check_attack(tiny("attack=independent", "attack.portion=disjoint", "dataset.substitute_pool=0"))


def test_weights_of_another_model_are_no_independent_training() -> None:
    with pytest.raises(UserError, match=r"attack\.model\.weights has no place"):
        tiny("attack=independent", "attack.model.weights=x.pt").attack.check()


def test_the_result_says_what_kind_of_model_it_is(tmp_path: Path) -> None:
    """And another architecture is trained, loaded and tested as itself."""
    store, own = Store(tmp_path), ["attack=independent", "attack.model=resnet20", "attack.model.width=4"]
    config = tiny(*own, "attack.portion=disjoint", "defense=random", "defense.num_queries=30")
    folder = stages.attack(config, store)
    assert (folder.result() or {})["independent"] == {"kind": "architectures", "portion": "disjoint", "images": 64}
    assert sum(p.numel() for p in stages.load_model(config, folder).parameters()) > 2 * sum(
        p.numel() for p in stages.load_model(config, stages.train(config, store)).parameters()
    )
    assert torch.isfinite(torch.tensor([*(stages.verify(config, store).result() or {})["scores"].values()])).all()
    assert folder.id == content_id(document("attack", config))
