"""Whatever people write: a value or one line. RNET_FUZZ sets how many inputs are tried."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.sweep.plan.expand import make_plan
from rnet.config.components import GROUPS, TOP_LEVEL
from rnet.config.documents import content_id, run_from_dict, run_to_dict, to_yaml
from rnet.config.run import RunConfig, load_config
from rnet.config.yaml_files import parse_yaml
from rnet.errors import UserError
from rnet.stages.graph import check_settings, document

INPUTS = int(os.environ.get("RNET_FUZZ", "500"))

ANYTHING = st.text(st.characters(exclude_categories=[]), max_size=40)
KEYS = [
    *TOP_LEVEL,
    *(f"{group}.{field.name}" for group in GROUPS for field in dataclasses.fields(getattr(load_config(), group))),
    *GROUPS,
]
NEARLY = st.sampled_from(
    ["null", "true", "1e3", "-1", "0", "1e999", "nan", "[", "[a", "[1,2]", "{a: 1}", "'", "digits", "007", "&a", "*a"]
)
VALUES = st.one_of(ANYTHING, NEARLY, st.builds(str, st.integers()), st.builds(repr, st.floats()))
LINES = st.one_of(st.builds("{}={}".format, st.sampled_from(KEYS), VALUES), st.builds("{}={}".format, ANYTHING, VALUES))
SCALARS = st.one_of(VALUES, st.integers(), st.floats(), st.booleans(), st.none())
TREES: Any = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | ANYTHING, inner, max_size=4),
    max_leaves=12,
)
_PIECES = [
    *("name: digits", "\n", "  ", "\t", "- ", "image_size: ", "16", "&a ", "*a", "!!int ", "!x ", "[", "]", "{", "}"),
    *(", ", ": ", "'", '"', "|\n", ">", "# c\n", "? ", "<<: ", "---\n", "...", "\\", "\x85", "\u2028", "\ufeff", "%"),
    *("seed", "axes:", "dataset", "set: ", "null", "~", "1e3", "\x07", "\u00e9"),
]
PIECES = st.lists(st.sampled_from(_PIECES), max_size=25).map("".join)
quietly = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)


def _one_line(error: UserError) -> None:
    assert str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 5000


@settings(quietly, max_examples=INPUTS)
@given(st.lists(LINES, min_size=1, max_size=3))
def test_any_text_as_a_setting(lines: list[str]) -> None:
    try:
        run = load_config(lines)
    except UserError as error:
        _one_line(error)
        return
    again = run_from_dict(run_to_dict(run))
    assert again == run
    _named(run)


def _named(run: RunConfig) -> None:
    """Ids, settings and the text that is kept can be made of a configuration that was accepted."""
    to_yaml(run_to_dict(run)).encode()
    try:
        for stage in ("train", "attack"):
            check_settings(stage, run)
            assert len(content_id(document(stage, run))) == 16
    except UserError as error:
        _one_line(error)


@settings(quietly, max_examples=INPUTS)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_any_text_is_a_path_as_it_stands(text: str) -> None:
    assert load_config(["dataset=image_folder", f"dataset.folder={text}"]).dataset.folder == text


@settings(quietly, max_examples=INPUTS)
@given(st.one_of(PIECES, ANYTHING))
def test_any_text_as_yaml(text: str) -> None:
    try:
        parse_yaml(text, "f.yaml")
    except UserError as error:
        _one_line(error)


@pytest.mark.parametrize("kind", ["option", "sweep"])
def test_any_bytes_as_a_file_of_ones_own(kind: str) -> None:
    content = st.one_of(
        st.binary(max_size=80),
        PIECES.map(str.encode),
        TREES.map(_as_yaml),
        TREES.map(lambda tree: b"axes: " + _as_yaml(tree)),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dataset").mkdir()

        @settings(quietly, max_examples=INPUTS // 2)
        @given(content)
        def try_it(data: bytes) -> None:
            path = folder / ("dataset/mine.yaml" if kind == "option" else "sweep.yaml")
            path.write_bytes(data)
            try:
                if kind == "option":
                    load_config(["dataset=mine"], config_dir=folder)
                else:
                    make_plan(path)
            except UserError as error:
                _one_line(error)

        try_it()


def _as_yaml(tree: Any) -> bytes:
    import yaml

    try:
        return yaml.safe_dump(tree, allow_unicode=True).encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return b"\xff"
