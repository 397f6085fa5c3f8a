"""What stages show of the documents they are computed from."""

from __future__ import annotations

from rnet.stages.documents import attack_document, hyperparameters, train_document
from tests.tiny_runs import tiny


def test_settings_have_the_same_flat_names_in_every_stage() -> None:
    config = tiny("attack=finetune", "attack.fraction=0.5")
    victim, suspect = (hyperparameters(make(config)) for make in (train_document, attack_document))
    assert suspect["stage"] == "attack"
    assert (suspect["dataset"], suspect["model"]) == ("digits", config.model.name)
    assert (suspect["attack"], suspect["attack.fraction"]) == ("finetune", 0.5)
    assert victim.items() - {("stage", "train")} <= suspect.items()
    assert not any(value is None or isinstance(value, dict | list) for value in suspect.values())
    assert not any(name.startswith(("victim", "method")) for name in suspect)
