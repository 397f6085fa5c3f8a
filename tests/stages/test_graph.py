"""The graph of stages: who needs whom, what the ids are made of, and what stages show of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rnet.attacks.registry import ATTACKS
from rnet.config.documents import content_id
from rnet.config.run import load_config
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError
from rnet.stages.graph import GRAPH, STAGE_NAMES, check_settings, document, hyperparameters, ingredients, lineage
from rnet.training.config import TrainConfig
from tests.tiny_runs import tiny

# Ids of default settings: whoever changes one has made every store out there useless, so it must be meant.
IDS: dict[str, str] = json.loads(Path(__file__).with_name("ids.json").read_text())
"""Stage and override -> id; `python -m tests.write_ids` writes them anew."""


@pytest.mark.parametrize("text", IDS)
def test_default_settings_keep_their_ids(text: str) -> None:
    stage, override = text.split()
    assert content_id(document(stage, load_config([override]))) == IDS[text]


def test_the_table_of_ids_names_every_attack_and_defence() -> None:
    listed = {text.partition("=")[2] for text in IDS if text.startswith(("attack ", "fingerprint "))}
    assert listed == {*ATTACKS.names(), *DEFENSES.names()}


def test_a_stage_stands_behind_all_that_it_needs() -> None:
    assert lineage("verify") == STAGE_NAMES
    assert lineage("fingerprint") == ("train", "fingerprint")
    for stage in STAGE_NAMES:
        assert {*GRAPH[stage].parents.values()} <= {*lineage(stage)[:-1]}
    assert "defense" not in ingredients("attack")
    assert {"dataset", "model", "train", "substitute", "attack", "precision"} == {*ingredients("attack")}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0), ("epochs", -3), ("learning_rate", 0.0), ("momentum", 1.0), ("weight_decay", -1e-4),
        ("clip_norm", 0.0), ("label_smoothing", 1.0), ("crop_padding", -1), ("learning_rate", float("nan")),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_train_is_refused_by_every_stage(field: str, value: float) -> None:
    config = dataclasses.replace(tiny(), train=TrainConfig(**{field: value}))
    for stage in STAGE_NAMES:
        with pytest.raises(UserError, match=rf"train\.{field}="):
            check_settings(stage, config)


def test_imported_weights_are_read_once_and_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(2)}, weights)
    reads: list[Path] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: reads.append(Path(file.name)) or digest(file, kind))
    config = tiny(f"model.weights={weights}")
    ids = {stage: content_id(document(stage, config)) for stage in STAGE_NAMES}
    assert reads == [weights]
    save_file({"a": torch.ones(2)}, weights)
    os.utime(weights, ns=(1, 1))
    assert all(content_id(document(stage, config)) != ids[stage] for stage in STAGE_NAMES)
    assert len(reads) == 2


def test_settings_have_the_same_flat_names_in_every_stage() -> None:
    config = tiny("attack=finetune", "attack.fraction=0.5")
    victim, suspect = (hyperparameters(document(stage, config)) for stage in ("train", "attack"))
    assert suspect["stage"] == "attack"
    assert (suspect["dataset"], suspect["model"]) == ("digits", config.model.name)
    assert (suspect["attack"], suspect["attack.fraction"]) == ("finetune", 0.5)
    assert victim.items() - {("stage", "train")} <= suspect.items()
    assert not any(value is None or isinstance(value, dict | list) for value in suspect.values())
    assert not any(name.startswith(("victim", "method")) for name in suspect)
