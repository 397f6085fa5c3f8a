"""Suspects that are given: files of weights, a folder of them, and functions, judged beside each other on digits."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rnet.attacks.imported.config import ImportConfig
from rnet.attacks.imported.folder import files_of
from rnet.command.verdicts import show_verdicts
from rnet.config.run import RunConfig
from rnet.errors import UserError
from rnet.models.config import ModelConfig
from rnet.stages import stages
from rnet.stages.store import Store
from rnet.verdicts.examine import examine, suspect_names
from tests.parallel.multiprocess import REPOSITORY, run_ranks
from tests.tiny_runs import TINY, TINY_IPGUARD, tiny
from tests.verdicts.studied import separations
from tests.verdicts.test_examine import SMALL

HERE = "tests.verdicts.given"
VICTIM = ("train.epochs=6",)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def files(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By what it is, a file of weights that has left the store: the victim's copy and independent models."""
    made = {
        "copy": stages.train(tiny(*VICTIM), store),
        "independent": stages.attack(tiny(*VICTIM, "attack=independent", "attack.seed=77"), store),
        "resnet14": stages.train(tiny(*VICTIM, "model=resnet14", "model.width=6", "seed=5"), store),
        "large": stages.train(tiny(*VICTIM, "model.input_size=12", "seed=6"), store),
    }
    folder = tmp_path_factory.mktemp("files")
    found = {name: folder / f"{name}.safetensors" for name in made}
    for name, stage in made.items():
        shutil.copy(stage.path / "model.safetensors", found[name])
    six = load_file(found["copy"])
    six |= {name: six[name][:6].clone() for name in six if name.startswith("fc.")}
    found["six"] = folder / "six.safetensors"
    save_file(six, found["six"])
    return found


@pytest.fixture(autouse=True)
def answering(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN_SUSPECT", str(files["copy"]))


def given(defense: str = "ipguard", *overrides: str, **settings: Any) -> RunConfig:
    config = tiny(*VICTIM, "negatives=2", f"defense={defense}", *SMALL[defense], *overrides)
    return dataclasses.replace(config, attack=ImportConfig(**settings))


def file(path: Path, **settings: Any) -> dict[str, Any]:
    return {"weights": str(path), **settings}


@pytest.mark.parametrize("defense", ["ipguard", "akh", "random", "zest"])
def test_the_victims_copy_is_judged_derived_and_an_independent_model_is_not(
    defense: str, store: Store, files: dict[str, Path]
) -> None:
    more = ["negatives=4", *(["defense.num_queries=40"] if defense == "ipguard" else [])]
    copy, other = examine([given(defense, *more, **file(files[name])) for name in ("copy", "independent")], store)
    assert (copy["suspect"], copy["agreement"], copy["drop"], copy["derived"]) == ("copy.safetensors", 1, 0, None)
    assert copy["verdict"] == "derived"
    assert other["verdict"] != "derived"
    assert copy["left_out"] == {}


def test_a_given_file_has_the_result_of_the_same_model_made_here(store: Store, files: dict[str, Path]) -> None:
    config = given(**file(files["independent"]))
    same = tiny(*VICTIM, "attack=independent", "attack.seed=77", "negatives=2", "defense=ipguard", *SMALL["ipguard"])
    here, there = (stages.attack(one, store).result() or {} for one in (same, config))
    assert here.pop("independent")["kind"] == "seeds"
    assert "independent" not in there  # of a file, nobody knows what it was trained on
    assert {**here, "derived": None, "cost": {}} == {key: there[key] for key in here}
    assert there["import"]["architecture"]["value"] == "resnet8"
    first, second = (stages.verify(one, store).result() for one in (same, config))
    assert first == second


@pytest.mark.parametrize(
    ("name", "model", "left_out"),
    [
        ("resnet14", ModelConfig(name="resnet14", width=6), {"lod", "lad", "nod", "nad"}),
        ("large", ModelConfig(name="resnet8", width=4, input_size=12), set()),
    ],
)
def test_another_architecture_and_another_input_size_are_rebuilt_from_the_store(
    name: str, model: ModelConfig, left_out: set[str], store: Store, files: dict[str, Path]
) -> None:
    config = given("deepjudge", **file(files[name], model=model))
    (row,) = examine([config], store)
    victims = {"resnet14": ["model=resnet14", "model.width=6", "seed=5"], "large": ["model.input_size=12", "seed=6"]}
    own = stages.train(tiny(*VICTIM, *victims[name]), store).result() or {}
    assert row["accuracy"] == own["accuracy"]
    assert row["left_out"].keys() == {f"deepjudge/{metric}" for metric in left_out}
    assert all("is a resnet14 whose layers are not those of the victim" in why for why in row["left_out"].values())
    assert {"deepjudge/robd", "deepjudge/jsd"} <= row["metrics"].keys()
    loaded = stages.load_model(config, stages.attack(config, store))
    assert (loaded.architecture, loaded.input_size) == (model.name, model.input_size)


def test_other_mean_and_standard_deviation_are_another_function(store: Store, files: dict[str, Path]) -> None:
    model = ModelConfig(width=4, mean=[0.9], std=[0.1])
    same, other = examine([given(**file(files["copy"])), given(**file(files["copy"], model=model))], store)
    assert same["accuracy"] > other["accuracy"]


@pytest.mark.parametrize("settings", [{"weights": "six", "num_classes": 6}, {"function": f"{HERE}:of_six_classes"}])
def test_a_suspect_with_other_classes_is_judged_where_classes_need_not_be_the_same(
    settings: dict[str, Any], store: Store, files: dict[str, Path]
) -> None:
    if "weights" in settings:
        settings = {**settings, "weights": str(files["six"])}
    rows = {row["defense"]: row for row in examine([given(name, **settings) for name in sorted(SMALL)], store)}
    judged = {name for name, row in rows.items() if row["metrics"]}
    assert judged == {"sac", "zest"}
    assert all("6 classes but the fingerprint's victim has 10" in rows[name]["reason"] for name in rows.keys() - judged)
    assert [rows["zest"][key] for key in ("accuracy", "drop", "agreement")] == [None] * 3
    assert {rows[name]["verdict"] for name in judged} == {"undecided"}
    assert rows["zest"]["reason"].startswith("the suspect tells 6 classes apart, not 10 as the negatives have")
    assert rows["zest"]["metrics"]["zest/l1"]["value"] < 0.1  # it has been the victim, and ZEST finds which classes
    show_verdicts([*rows.values()])


def test_other_classes_are_no_case_for_the_separation(store: Store, files: dict[str, Path]) -> None:
    settings = {"weights": str(files["six"]), "num_classes": 6, "derived": True}
    configs = [given("sac", **settings, batch_size=size) for size in (1, 2)]
    assert separations(configs, store) == []


def test_weights_for_other_classes_are_refused_with_the_setting_that_takes_them(
    store: Store, files: dict[str, Path]
) -> None:
    with pytest.raises(UserError, match=r"6 classes.*attack\.num_classes"):
        examine([given(**file(files["six"]))], store)


def test_what_does_not_fit_names_the_settings_of_a_suspect(store: Store, files: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"do not fit resnet8.*attack\.model\.name") as refused:
        examine([given(**file(files["resnet14"]))], store)
    assert " model.name" not in str(refused.value)


def test_a_folder_of_good_damaged_and_foreign_files_is_judged_whole(
    store: Store, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for target, source in (("a copy.pt", "copy"), ("the same again", "copy"), ("other.bin", "independent")):
        shutil.copy(files[source], tmp_path / target)
    whole = files["copy"].read_bytes()
    (tmp_path / "damaged.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.pt").write_text("<!DOCTYPE html>sign in")
    (tmp_path / "foreign.safetensors").write_bytes(files["resnet14"].read_bytes())
    (tmp_path / "nan.safetensors").write_bytes(b"")
    save_file({k: v * torch.nan if v.is_floating_point() else v for k, v in load_file(files["copy"]).items()},
              tmp_path / "nan.safetensors")  # fmt: skip
    (tmp_path / "gone.pt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "README.md").write_text("suspects")
    configs = [given(name, **file(path)) for path in files_of(tmp_path) for name in ("ipguard", "random")]
    rows = examine(configs, store)
    shown = {row["suspect"]: row for row in rows if row["defense"] == "ipguard"}
    assert [*shown] == sorted(path.name for path in tmp_path.iterdir() if path.name != "README.md")
    assert {name: shown[name]["verdict"] for name in ("a copy.pt", "the same again")} == {
        "a copy.pt": "derived",
        "the same again": "derived",
    }
    assert shown["a copy.pt"]["attack_id"] == shown["the same again"]["attack_id"]
    assert shown["other.bin"]["metrics"]
    reasons = {name: row["reason"] for name, row in shown.items() if not row["metrics"]}
    for name, reason in {
        "damaged.safetensors": "damaged.safetensors", "foreign.safetensors": "do not fit", "gone.pt": "No such file",
        "nan.safetensors": "not finite", "page.pt": "web page",
    }.items():  # fmt: skip
        assert reason in reasons.pop(name)
    assert reasons == {}
    assert len(rows) == 2 * len(shown)
    show_verdicts(rows, separations(configs, store))
    assert capsys.readouterr().out.count("refused") == 10
    assert examine(configs, store) == rows


def test_a_file_that_cannot_be_imported_stops_a_command_that_has_nothing_else(
    store: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "page.pt").write_text("<!DOCTYPE html>")
    other = Store(tmp_path / "store")
    with pytest.raises(UserError, match="web page"):
        examine([given(**file(tmp_path / "page.pt"))], other)
    assert not other.root.exists()


def test_settings_out_of_range_stop_a_folder_at_once(files: dict[str, Path], tmp_path: Path) -> None:
    configs = [given("random", **file(files[name])) for name in ("copy", "independent")]
    wrong = dataclasses.replace(configs[1], defense=dataclasses.replace(configs[1].defense, batch_size=0))
    with pytest.raises(UserError, match=r"defense\.batch_size=0"):
        examine([configs[0], wrong], Store(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("kind", ["labels", "probabilities", "logits"])
def test_a_black_box_has_the_scores_of_its_file_and_its_questions_are_counted(
    kind: str, store: Store, files: dict[str, Path]
) -> None:
    names = ("ipguard", "akh", "random", "deepjudge")
    rows = examine([given(name, function=f"{HERE}:{kind}") for name in names], store)
    weights = {row["defense"]: row for row in examine([given(name, **file(files["copy"])) for name in names], store)}
    for row in rows:
        assert (row["suspect"], row["accuracy"]) == (f"{HERE}:{kind}", weights[row["defense"]]["accuracy"])
        scores = {name: metric["value"] for name, metric in row["metrics"].items()}
        expected = {name: metric["value"] for name, metric in weights[row["defense"]]["metrics"].items()}
        assert scores == pytest.approx({name: expected[name] for name in scores}, abs=1e-6)
        left_out = {name.partition("@")[0] for name in expected.keys() - scores.keys()}  # whatever the layer
        assert row["left_out"].keys() == left_out
        assert row["queries"] > 0
    assert [row["queries"] for row in rows[:1]] == [8]
    result = stages.attack(given(function=f"{HERE}:{kind}"), store).result() or {}
    assert (result["answers"], result["num_classes"], result["cost"]) == (kind, 10, {"queries": 3 * 60})


def test_defences_that_need_more_than_labels_refuse_a_black_box_in_one_line(store: Store) -> None:
    rows = examine([given(name, function=f"{HERE}:labels") for name in sorted(SMALL)], store)
    refused = {row["defense"]: row["reason"] for row in rows if not row["metrics"]}
    assert refused.keys() == {"modeldiff", "sac", "zest"}
    assert all("needs logits, but the suspect shows labels only" in reason for reason in refused.values())


def test_a_plugin_defence_judges_a_black_box_by_what_its_metric_needs(store: Store) -> None:
    overrides = [*VICTIM, "defense=tests.plugins.defense:OutputDistance", "defense.num_queries=20", "negatives=2"]
    attacks = [ImportConfig(function=f"{HERE}:{kind}") for kind in ("probabilities", "labels")]
    shown, refused = examine([dataclasses.replace(tiny(*overrides), attack=attack) for attack in attacks], store)
    assert [metric["value"] for metric in shown["metrics"].values()] == pytest.approx([0], abs=1e-6)
    assert "needs probabilities, but the suspect shows labels only" in refused["reason"]


def test_answers_that_waver_are_warned_about(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    stages.attack(given(function=f"{HERE}:wavering"), store)
    assert "of 60 images otherwise when it is asked again" in caplog.text
    caplog.clear()
    stages.attack(given("random", function=f"{HERE}:labels", answers="labels"), store)
    assert "otherwise" not in caplog.text


def test_a_function_that_fails_is_a_row_beside_others_and_leaves_nothing(
    tmp_path: Path, store: Store, files: dict[str, Path]
) -> None:
    good, bad = examine([given(**file(files["copy"])), given(function=f"{HERE}:broken")], store)
    assert good["verdict"] == "derived"
    assert "raised ConnectionError: the service is down" in bad["reason"]
    assert "given.py, line" in bad["reason"]
    assert not any("broken" in path.read_text() for path in store.root.glob("attack/*/config.yaml"))


def test_what_only_answers_has_no_weights_to_load(store: Store) -> None:
    config = given(function=f"{HERE}:logits")
    folder = stages.attack(config, store)
    assert not (folder.path / "model.safetensors").exists()
    with pytest.raises(UserError, match="black box"):
        stages.load_model(config, folder)


def test_suspects_known_to_derive_count_for_the_separation_and_unknown_ones_do_not(
    store: Store, files: dict[str, Path]
) -> None:
    copy, other = files["copy"], files["independent"]
    unknown = [given(**file(copy)), given(**file(other))]
    assert separations(unknown, store) == []
    known = [given(**file(path, derived=True)) for path in (copy, other)]
    (entry,) = separations(known, store)
    assert (entry["attack"], entry["positives"]) == ("import", 2)


def test_files_of_one_name_are_told_apart_by_their_folder() -> None:
    configs = [given(weights=path) for path in ("/x/a/m.pt", "/x/b/m.pt", "/x/b/n.pt")] + [tiny("attack=identity")]
    assert suspect_names(configs) == ["a/m.pt", "b/m.pt", "n.pt", "identity"]


def test_two_processes_ask_a_black_box_as_one_does(store: Store, tmp_path: Path, files: dict[str, Path]) -> None:
    overrides = [*VICTIM, "attack=import", f"attack.function={HERE}:labels", "attack.batch_size=16", "negatives=2"]
    lines = [[*TINY, *overrides, *TINY_IPGUARD]]
    (tmp_path / "lines.json").write_text(json.dumps(lines))
    environment = {"GIVEN_SUSPECT": str(files["copy"]), "PYTHONPATH": str(REPOSITORY)}
    for outcome in run_ranks("plain", "-m", "tests.engines.defend", tmp_path, environment=environment):
        assert outcome.returncode == 0, outcome.stderr
    together = json.loads((tmp_path / "rows.json").read_text())["ipguard"]
    (alone,) = examine([given(function=f"{HERE}:labels")], store)
    for key in ("attack_id", "verify_id", "queries"):
        assert together[key] == alone[key]
    assert together["agreement"] == pytest.approx(alone["agreement"], abs=0.2)


def test_what_a_file_says_of_itself_goes_before_what_the_victim_is(
    store: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    """Files that rnet writes say their mean and standard deviation; so do those of timm."""
    about = {"model": {"name": "resnet8", "mean": [0.9], "std": [0.1]}}
    said = tmp_path / "said.safetensors"
    save_file(load_file(files["copy"]), said, {"rnet": json.dumps(about)})
    silent = tmp_path / "silent.safetensors"
    save_file(load_file(files["copy"]), silent)
    results = {path.stem: stages.attack(given(**file(path)), store).result() or {} for path in (said, silent)}
    assert results["said"]["import"]["mean"]["value"] == [0.9]
    assert results["said"]["import"]["mean"]["how"] == "read"
    assert results["said"]["accuracy"] < results["silent"]["accuracy"]
    assert results["silent"]["agreement"] == 1
    assert results["silent"]["import"]["options"]["value"] == []
    assert results["silent"]["import"]["mean"]["value"] == pytest.approx([0.3049], abs=1e-3)
    assert results["silent"]["import"]["mean"]["from"].startswith("the victim's; else attack.model.mean")
    loaded = stages.load_model(given(**file(said)), stages.attack(given(**file(said)), store))
    assert loaded.mean.item() == pytest.approx(0.9)
