"""An attack gives the same bits each time, also where it was cut off: for every attack that takes steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rnet.attacks.base import AttackContext
from rnet.attacks.registry import ATTACKS
from rnet.config.run import load_config
from rnet.data.images import Dataset
from rnet.engines.config import EngineConfig
from tests.attacks.table import TABLE, TRAINED


class Killed(Exception):
    """The process would be gone."""


def attacked(
    case: str, folder: Path, context: AttackContext, dataset: Dataset, *, kill_after: int | None = None
) -> tuple[dict[str, Tensor], dict[str, object], list[int]]:
    """Its weights, its costs, and the steps after which it kept a checkpoint."""
    kept = []

    def on_checkpoint(step: int, total: int) -> None:
        kept.append(step)
        if step == kill_after:
            raise Killed

    run = replace(
        context.run, folder=folder, config=EngineConfig(checkpoint_steps=1, device="cpu"), on_checkpoint=on_checkpoint
    )
    suspect = ATTACKS.build(load_config(TABLE[case]).attack).run(dataset, replace(context, run=run))
    return suspect.model.state_dict(), suspect.cost, kept


@pytest.mark.parametrize("case", TRAINED)
def test_an_attack_that_was_cut_off_ends_with_the_bits_and_costs_of_one_that_was_not(
    case: str, context: AttackContext, dataset: Dataset, tmp_path: Path
) -> None:
    whole, spent, steps = attacked(case, tmp_path / "whole", context, dataset)
    with pytest.raises(Killed):
        attacked(case, tmp_path / "cut", context, dataset, kill_after=1)
    torch.rand(1)  # whatever else happens before it goes on
    resumed, spent_again, steps_after = attacked(case, tmp_path / "cut", context, dataset)
    assert steps_after == steps[1:]
    assert spent == spent_again
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
