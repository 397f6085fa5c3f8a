"""`rnet bench all`: one call, one document, and a subject that fails stops no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch import benchmark_all
from launch.benchmark import SUBJECTS
from rnet.command.run import Options
from rnet.errors import UserError

FEW = ["attack.num_poison_steps=2", "dataset.image_size=8", "dataset.train_size=64", "dataset.substitute_pool=32",
       "attack.substitute_size=32"]  # fmt: skip


def test_all_measure_and_the_one_that_fails_is_named_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subjects = [("attack", ["attack.distance=cosine"]), ("attack", [*FEW, "attack.batch_size=8", "rounds=3"])]
    monkeypatch.setattr(benchmark_all, "ON_CPU", subjects)
    with pytest.raises(UserError, match=r"^attack: .*attack\.distance=l2"):
        benchmark_all.run_all(["engine.device=cpu", "rounds=1", "images=7"], Options(root=tmp_path, as_json=True))
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert "images=7" not in err
    refused, measured = document["subjects"]
    assert "attack.distance=l2" in refused["error"]
    assert measured["overrides"][-2:] == ["engine.device=cpu", "rounds=1"]
    assert {row.get("rounds") for row in measured["rows"]} == {1, None}
    assert document["device"] == "cpu"
    assert document["seconds"] >= refused["seconds"] + measured["seconds"]


@pytest.mark.parametrize("subjects", [benchmark_all.ON_CPU, benchmark_all.ON_CUDA])
def test_every_subject_exists_and_its_overrides_are_settings(subjects: list[tuple[str, list[str]]]) -> None:
    from rnet.config.run import load_config

    for subject, own in subjects:
        assert subject in SUBJECTS
        load_config([line for line in own if line.partition("=")[0] not in ("rounds", "images")])
