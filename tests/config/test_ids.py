"""Stores outlive refactors: what was computed is found again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rnet.config.compose import option_names
from rnet.config.documents import content_id
from rnet.config.run import RunConfig, load_config
from rnet.data.config import DatasetConfig
from rnet.data.files.digest import Look
from rnet.stages.graph import document

IDS = json.loads(Path(__file__).with_name("ids.json").read_text())
"""Overrides -> id of the verify stage, as stores have it; `python -m tests.write_ids` writes them anew."""


def configuration(text: str) -> RunConfig:
    """Of a line of the table: an option alone is with seed=3."""
    lines = text.split()
    return load_config(lines if len(lines) > 1 else [*lines, "seed=3"])


def look_at(config: DatasetConfig) -> Look | None:
    """The files that the ids here are made with: those of a set that has files are all one."""
    return None if config.name == "digits" else Look(folder=Path(), digest="content", sha256="0" * 64, files={})


def test_every_shipped_option_has_the_id_that_stores_know_it_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rnet.stages.graph.look_at", look_at)
    for text, expected in IDS.items():
        assert content_id(document("verify", configuration(text))) == expected, text


def test_the_ids_are_those_of_every_option_with_a_file() -> None:
    for group in ("dataset", "attack", "defense", "engine"):
        assert {f"{group}={option}" for option in option_names(group)} <= IDS.keys()
