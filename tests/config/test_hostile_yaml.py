"""YAML that means harm: one line with file, line and remedy, before anything is expanded."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from launch.sweep.plan.expand import make_plan
from rnet.config.overrides import expand_choices
from rnet.config.run import load_config
from rnet.config.yaml_files import MOST_BYTES, MOST_VALUES, parse_yaml, read_mapping
from rnet.errors import LONGEST, UserError

PAIRS = [*pairwise("abcdefghi")]
ANCHORS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in PAIRS
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}], {name}: 1}}\n" for before, name in PAIRS
)
HOSTILE = {
    "an anchor bomb": (ANCHORS, rf"line \d+, column \d+: more than {MOST_VALUES} values, with aliases"),
    "a bomb of merges": (MERGES, f"more than {MOST_VALUES} values, with aliases"),
    "very many values": ("- 1\n" * (MOST_VALUES + 1), f"line {MOST_VALUES}, column 3: more than {MOST_VALUES} values"),
    "brackets without end": ("a: " + "[" * 100_000, "line 1, column 35: nested more than 32 levels"),
    "braces without end": ("{a: " * 100_000, "nested more than 32 levels"),
    "lists without end": ("- " * 100_000, "nested more than 32 levels"),
    "a key twice": ("name: digits\nimage_size: 1\nname: lfw\n", "line 3, column 1: the key 'name' stands there twice"),
    "a tag": ("a: !!python/object/apply:os.system [x]", "line 1, column 4: the tag 'python/object/apply:os.system'"),
    "another tag": ("a: !x 1", "the tag '!x' is not read"),
    "NUL": ("a: 1\nb: \0", r"line 2, column 4: the character U\+0000 cannot stand in YAML"),
    "an alias of itself": ("a: &a [*a]", "an alias stands inside of what it names"),
    "too long": ("#" * (MOST_BYTES + 1), "has 1048577 (bytes|characters), more than the 1048576"),
}


@pytest.mark.parametrize(
    ("place", "case"),
    [("option", case) for case in HOSTILE] + [("sweep", "an anchor bomb"), ("cluster", "a key twice")],
)
def test_a_hostile_file_is_refused_with_its_place(place: str, case: str, tmp_path: Path) -> None:
    text, said = HOSTILE[case]
    path = tmp_path / {"option": "dataset", "sweep": "", "cluster": "cluster"}[place] / "mine.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    if place == "cluster":
        (tmp_path / "s.yaml").write_text("cluster: mine\nuntil: train\naxes: {seed: 0}\n")
    with pytest.raises(UserError, match=said) as caught:
        _read(place, path, tmp_path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def _read(place: str, path: Path, folder: Path) -> None:
    if place == "option":
        load_config(["dataset=mine"], config_dir=folder)
    else:
        make_plan(path if place == "sweep" else folder / "s.yaml", config_dir=folder)


NO_TEXT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no UTF-8": (lambda path: path.write_bytes(b"name: caf\xe9\n"), "line 1, column 10: the byte 0xe9 is no UTF-8"),
    "a pipe": (os.mkfifo, "is no file but a folder, a pipe or a device"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is no file"),
    "a large file": (lambda path: path.write_bytes(b"#" * 2**21), "has 2097152 bytes"),
}


@pytest.mark.parametrize("case", NO_TEXT)
def test_what_is_no_text_file_is_refused_before_it_is_read(case: str, tmp_path: Path) -> None:
    make, said = NO_TEXT[case]
    make(tmp_path / "x.yaml")
    with pytest.raises(UserError, match=said):
        read_mapping(tmp_path / "x.yaml")


def test_aliases_and_merges_within_the_limits_are_read() -> None:
    found = parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n", "f.yaml")
    assert found == {"a": {"x": "1"}, "b": {"x": "1", "y": "2"}, "c": [{"x": "1"}, {"x": "1"}]}


@pytest.mark.parametrize("line", ["defense.inputs=[" + "[" * 10**5, "seed=" + "9" * 10**6])
def test_a_hostile_override_is_one_line_of_bearable_length(line: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(["defense=sac", line])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= LONGEST


def test_a_product_of_choices_is_refused_before_it_is_made() -> None:
    many = ",".join(map(str, range(1000)))
    with pytest.raises(UserError, match=r"make 1,000,000,000 combinations; one command runs at most"):
        expand_choices([f"seed={many}", f"attack.seed={many}", f"attack={many}"])
