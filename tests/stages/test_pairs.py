"""Independent suspects compared with each other: what verify stages keep for that, and what is read back."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rnet.defenses.base import Defense
from rnet.defenses.registry import DEFENSES
from rnet.defenses.zest.comparing import distance
from rnet.errors import UserError
from rnet.stages import stages
from rnet.stages.pairs import FILE, pair_scores
from rnet.stages.store import StageFolder, Store
from tests.tiny_runs import TINY_IPGUARD, tiny

ZEST = ["defense=zest", "defense.num_images=3", "defense.num_masks=30", "defense.max_dist=6"]


def verified(store: Store, *overrides: str) -> tuple[Defense, StageFolder]:
    config = tiny(*overrides)
    return DEFENSES.build(config.defense), stages.verify(config, store)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def independent(store: Store) -> tuple[Defense, list[StageFolder]]:
    found = [verified(store, "attack=independent", f"attack.seed={seed}", *ZEST) for seed in (1, 2, 3)]
    return found[0][0], [folder for _, folder in found]


def test_the_pairs_of_independent_models_are_scored_as_if_one_were_the_victim(store: Store) -> None:
    defense, folders = independent(store)
    kept = [load_file(folder.path / FILE)["weights_TK"] for folder in folders]
    assert {weights_TK.dtype for weights_TK in kept} == {torch.float32}
    expected = [
        {name: distance(a.double(), b.double(), name, "always") for name in ("l1", "l2", "linf", "cosine")}
        for a, b in combinations(kept, 2)
    ]
    assert pair_scores(defense, folders) == expected
    assert all(score > 0 for scores in expected for score in scores.values())


def test_only_what_is_known_to_be_independent_is_kept_and_only_where_a_defence_has_it(store: Store) -> None:
    zest, derived = verified(store, "attack=identity", *ZEST)
    assert not (derived.path / FILE).exists()
    _, folders = independent(store)
    scores = pair_scores(zest, [folders[0], derived, folders[1]])
    assert [bool(pair) for pair in scores] == [False, True, False]
    ipguard, unrelated = verified(store, "attack=independent", "attack.seed=1", *TINY_IPGUARD)
    assert not (unrelated.path / FILE).exists()
    assert pair_scores(ipguard, [unrelated, unrelated]) == [{}]


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_a_kept_representation_that_is_gone_or_damaged_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    defense, folders = independent(Store(tmp_path))
    file = folders[1].path / FILE
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"verify/{folders[1].id}.*delete .* and run the command again"):
        pair_scores(defense, folders)
