"""Profiles of defences: what they set, what goes before what, and what ids make of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rnet import make_defense
from rnet.config.compose import option_files
from rnet.config.documents import content_id, run_to_dict
from rnet.config.explain import explain, list_options
from rnet.config.profiles import FOLDER, profiles_of
from rnet.config.run import Configurations, load_config
from rnet.config.yaml_files import read_mapping
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError
from rnet.stages.graph import document


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A user's folder with a profile of zest, and two options, of which one takes that profile."""
    files = {
        f"{FOLDER}/zest_lab.yaml": "# Our lab's choices.\nnum_masks: 77\nratio: 0.5\n",
        "defense/coarse.yaml": "# Few segments.\nname: zest\nnum_masks: 11\nnum_images: 5\n",
        "defense/ours.yaml": "# As our lab, with few masks.\nname: zest\nprofile: lab\nnum_masks: 11\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "num_masks", "ratio"),
    [
        (["defense=zest"], 1000, 0.2),
        (["defense=zest", "defense.profile=lab"], 77, 0.5),
        (["defense.profile=lab", "defense.num_masks=3", "defense=zest"], 3, 0.5),
        (["defense=coarse"], 11, 0.2),
        (["defense=coarse", "defense.profile=lab"], 77, 0.5),
        (["defense=ours"], 11, 0.5),
        (["defense=ours", "defense.profile=lab"], 77, 0.5),
        (["defense=ours", "defense.profile="], 11, 0.2),
    ],
)
def test_a_given_profile_goes_over_the_options_file_and_under_what_else_is_given(
    site: Path, overrides: list[str], num_masks: int, ratio: float
) -> None:
    config = load_config(overrides, config_dir=site).defense
    assert (config.num_masks, config.ratio) == (num_masks, ratio)


def test_ids_know_the_values_of_a_profile_and_not_its_name(site: Path) -> None:
    def verify_id(*overrides: str) -> str:
        return content_id(document("verify", load_config(["defense=zest", *overrides], config_dir=site)))

    assert verify_id("defense.profile=lab") == verify_id("defense.num_masks=77", "defense.ratio=0.5")
    assert verify_id("defense.profile=lab") != verify_id()
    assert verify_id("defense.profile=lab", "defense.num_masks=1000", "defense.ratio=0.2") == verify_id()


def test_the_resolved_configuration_shows_the_profile_and_every_value(site: Path) -> None:
    shown = run_to_dict(load_config(["defense=zest", "defense.profile=lab"], config_dir=site))["defense"]
    assert (shown["profile"], shown["num_masks"], shown["ratio"], shown["num_images"]) == ("lab", 77, 0.5, 128)


def test_rows_of_a_sweep_differ_by_their_profiles(site: Path) -> None:
    configurations = Configurations(site)
    rows = [configurations.load(["defense=zest", f"defense.profile={name}"]) for name in ("lab", "original", "lab")]
    assert [row.defense.num_masks for row in rows] == [77, 1000, 77]
    assert rows[0].defense is rows[2].defense


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["defense=zest", "defense.profile=orignal"], "orignal.* did you mean original.* lab, .*original"),
        (["defense=random", "defense.profile=original"], "defense=random has no profiles; leave it out"),
        (["defense=zest", "defense.profile=typo"], r"zest_typo.yaml, line 2, column 1: .*mean defense.num_masks"),
        (["defense=zest", "defense.profile=named"], r"zest_named.yaml, line 1, column 1: .*take 'name' out"),
        (["defense=zest", "defense.profile=wrong"], r"zest_wrong.yaml, line 1, .*num_masks='many' must be a whole"),
    ],
)
def test_a_profile_that_cannot_be_is_one_clear_line(site: Path, overrides: list[str], message: str) -> None:
    (site / FOLDER / "zest_typo.yaml").write_text("ratio: 0.5\nnum_mask: 3\n")
    (site / FOLDER / "zest_named.yaml").write_text("name: sac\n")
    (site / FOLDER / "zest_wrong.yaml").write_text("num_masks: many\n")
    with pytest.raises(UserError, match=message) as caught:
        load_config(overrides, config_dir=site)
    assert "\n" not in str(caught.value)


def test_lists_and_explanations_name_the_profiles_of_a_defence(site: Path) -> None:
    listed = {row["name"]: row["profiles"].split(", ") for row in list_options("defense", site)}
    assert {"lab", "original"} <= {*listed["zest"]}
    assert listed["coarse"] == listed["zest"]
    assert listed["random"] == [""]
    rows = {row["key"]: row for row in explain(["defense=zest", "defense.profile=lab"], site)}
    assert (rows["defense.profile"]["value"], rows["defense.num_masks"]["value"]) == ("lab", 77)
    assert "Profiles of zest: lab, original" in rows["defense.profile"]["meaning"]


def test_a_program_takes_a_profile_as_the_command_line_does() -> None:
    assert make_defense("zest", profile="original").config.align == "always"
    assert make_defense("zest", profile="original", align="never").config.align == "never"
    with pytest.raises(UserError, match="did you mean original"):
        make_defense("zest", profile="orignal")


SHIPPED = [(defense, profile) for defense in DEFENSES.own() for profile in profiles_of(defense)]


@pytest.mark.parametrize(("defense", "profile"), SHIPPED)
def test_a_shipped_profile_names_its_source_and_makes_a_valid_configuration(defense: str, profile: str) -> None:
    assert profiles_of(defense)[profile].read_text().startswith("# ")
    config = load_config([f"defense={defense}", f"defense.profile={profile}"]).defense
    config.check()
    assert {*read_mapping(profiles_of(defense)[profile])} <= {*dataclasses.asdict(config)}


def test_every_shipped_profile_belongs_to_a_defence() -> None:
    assert {*option_files(FOLDER)} == {f"{defense}_{profile}" for defense, profile in SHIPPED}
