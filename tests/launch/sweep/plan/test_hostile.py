"""Sweep files of strangers: nothing is expanded that is too large, and no file of commands is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.sweep.plan.expand import make_plan
from launch.sweep.plan.spec import MOST_ROWS, load_sweep
from rnet.errors import UserError
from tests.launch.sweep.sweeps import write_sweep

FIFTY = list(range(50))
EIGHT = {f"attack.{name}": FIFTY for name in "abcdefgh"}
PROFILE = "kind: slurm\nsetup: [touch marker]\n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axes": EIGHT}, ["39,062,500,000,000 rows", "50 (attack.a) x 50 (attack.b)", "200,000", "max_rows"]),
        ({"axes": EIGHT, "exclude": [{"attack.a": FIFTY}]}, ["39,062,500,000,000 rows"]),
        ({"axes": {f"attack.a{i}": [0, 1] for i in range(300)}}, ["over 10^90 rows"]),
        ({"axes": {"seed": "0..1000000000000", "attack": ["identity"]}}, ["seed", "whole number"]),
        ({"set": ["negatives=1000000000"]}, ["negatives=1000000000", "at most 10,000"]),
        ({"max_rows": 10**9}, ["key='max_rows' does not exist"]),
    ],
)  # fmt: skip
def test_what_is_too_large_is_refused_with_its_number_before_it_is_made(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        make_plan(write_sweep(tmp_path, **({"cases": None} | changes)))
    for word in words:
        assert word in str(caught.value)


def test_rows_times_rules_are_limited(tmp_path: Path) -> None:
    rules = [{"attack.seed": value} for value in range(200)]
    axes = {"attack.seed": list(range(400)), "seed": list(range(400))}
    with pytest.raises(UserError, match="160,000 rows times 200 rules"):
        load_sweep(write_sweep(tmp_path, axes=axes, exclude=rules, cases=None))


def test_the_limit_of_rows_is_set_on_the_command_line(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, axes={"seed": list(range(1000)), "attack.seed": list(range(300))}, cases=None)
    with pytest.raises(UserError, match=f"300,000 rows.*at most {MOST_ROWS:,}"):
        load_sweep(path)
    assert len(load_sweep(path, ["max_rows=300000"]).axes["seed"]) == 1000
    with pytest.raises(UserError, match="at most 10 are planned"):
        load_sweep(path, ["max_rows=10"])


@pytest.mark.parametrize("name", ["/tmp/x", "../x", "a/../../x", "..", ".x", "a\\nb", "", "~/x"])
def test_a_profile_is_a_name_and_never_a_path(name: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f'cluster: "{name}"\nuntil: train\naxes: {{seed: [0]}}\n')
    with pytest.raises(UserError, match=r"must be a profile's name, not a path.*--config-dir DIR"):
        make_plan(path)


def test_a_profile_beside_the_sweep_file_is_found_by_config_dir_only(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "evil.yaml").write_text(PROFILE)
    path = write_sweep(tmp_path, cluster="evil", until="train")
    with pytest.raises(UserError, match="cluster='evil' does not exist"):
        make_plan(path)
    assert make_plan(path, config_dir=tmp_path).profile["setup"] == ["touch marker"]


def test_very_many_changes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="30,000 changes on the command line"):
        load_sweep(write_sweep(tmp_path), ["axes.seed=[0]"] * 30_000)


def test_a_resource_that_is_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cpus"):
        make_plan(write_sweep(tmp_path, resources={"default": {"cpus": [1]}}))
