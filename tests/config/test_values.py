"""Values: text as it stands, numbers as YAML 1.2 has them, by the type of the setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rnet.config.run import load_config
from rnet.config.values import typed
from rnet.config.yaml_files import Word, parse_yaml, read_mapping
from rnet.errors import UserError

TEXTS = [
    *("plain", "my birds", "birds (1)", "birds,2", "epoch=9-step=100", "oiseaux_\u00e9t\u00e9", "\u9ce5", "007", "1e3"),
    *("1_000", "0x10", "true", "null", "nan", "it's", 'say "hi"', "a:b", "a#1", "@eaDir", "+x", "!x", "~x", "$HOME"),
    *(
        "${x}",
        "{a}",
        "[a]",
        "a\\b",
        "C:\\data\\birds",
        " lead",
        "trail ",
        "a\tb",
        "inf",
        "-5",
        "1.0",
        "3.10",
        "00",
        "~",
    ),
    *("[", "]", "{", "'", '"', "=", "a=", "=a", "*", "&a", "- a", "? a", "%", "|", ">", "e\u0301", "\U0001f426"),
    "yes",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_on_the_command_line_is_taken_as_it_stands(text: str) -> None:
    for value in (text, f"/data/{text}", f"{text}/weights.pt"):
        assert load_config(["dataset=image_folder", f"dataset.folder={value}"]).dataset.folder == value
        assert load_config([f"model.weights_key={value}"]).model.weights_key == value


@pytest.mark.parametrize("text", TEXTS)
def test_text_in_quotes_in_a_file_is_taken_as_it_stands(text: str, tmp_path: Path) -> None:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    found = _option(tmp_path, f'name: image_folder\nfolder: "{escaped}"\n').dataset.folder
    assert found == text


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *(("007", "007"), ("1e3", "1e3"), ("0x10", "0x10"), ("yes", "yes"), ("1:30", "1:30"), ("1_000", "1_000")),
        *(("true", "true"), ("2024-01-31", "2024-01-31"), ("3.10", "3.10"), ("C:\\data\\birds", "C:\\data\\birds")),
        *(("${HOME}/data", "${HOME}/data"), ("my birds (1)", "my birds (1)"), ("x=y", "x=y"), ("a, b", "a, b")),
        *(("caf\u00e9", "caf\u00e9"), ("'null'", "null"), ("null", None), ("~", None), ("", None)),
    ],
)
def test_plain_text_in_a_file_is_taken_as_it_stands(written: str, value: str | None, tmp_path: Path) -> None:
    assert _option(tmp_path, f"name: image_folder\nfolder: {written}\n").dataset.folder == value


def test_nothing_after_the_equals_sign_is_no_value() -> None:
    run = load_config(["attack=removalnet", "attack.layer=", "train.clip_norm=", "model.cut_layers=", "attack.seed="])
    assert (run.attack.layer, run.train.clip_norm, run.model.cut_layers, run.attack.seed) == (None, None, [], 0)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        *((int, "7", 7), (int, "007", 7), (int, "010", 10), (int, "-3", -3), (int, "+3", 3), (int, "1e3", 1000)),
        *((int, "0x1F", 31), (int, "0o17", 15), (int, "2.0", 2), (int, str(2**63 - 1), 2**63 - 1)),
        *((float, "1", 1.0), (float, "1e-3", 0.001), (float, ".5", 0.5), (float, "5.", 5.0), (float, "-1E+2", -100.0)),
        *((bool, "true", True), (bool, "False", False), (bool, "yes", True), (bool, "off", False)),
        *((int | None, "null", None), (int | None, "~", None), (float | None, "2", 2.0), (str | None, "null", "null")),
        *((list[str], "[a, b]", ["a", "b"]), (list[str], "a,b", ["a", "b"]), (list[str], "a", ["a"])),
        *((list[str], "[]", []), (list[str], '["a,b", 1e3]', ["a,b", "1e3"])),
        *((list[int], "[1, 0x2]", [1, 2]), (list[float], "1,2.5", [1.0, 2.5])),
        *((bool | str, "auto", "auto"), (bool | str, "true", True)),
    ],
)  # fmt: skip
def test_text_becomes_a_value_of_the_settings_type(kind: Any, text: str, value: Any) -> None:
    found = typed("x", kind, text)
    assert (found, type(found)) == (value, type(value))
    if not isinstance(value, list):
        in_a_file = Word(text, "f.yaml, line 1, column 1", plain=kind != str | None)
        assert typed("x", kind, in_a_file) == value


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        *((int, text, "whole number") for text in ("a", "", "1.5", "1_0", "1:30", "true", "null", "0b1", "1e400")),
        (int, "\u0661", "whole number"),
        *((int, str(number), "64 bits") for number in (2**63, -(2**63) - 1, 10**30, "9" * 5000)),
        *((float, text, "a number") for text in ("nan", "inf", ".inf", "1e999", "1,5", "0x1p3", "1_0.5", "e5", "")),
        *((bool, text, "true or false") for text in ("1", "0", "maybe", "null", "")),
        *((int, value, "whole number") for value in (True, 1.5, [1], {"a": 1}, None)),
        *((list[int], text, "whole number") for text in ("[a]", "[[1]]", "1,b")),
        *((list[str], text, "") for text in ("[a", "[a]]", "[!x a]", "[a: *b]")),
        *((str, "a\0b", "NUL"), (str, "a\udce9", "UTF-8"), (int | None, "x", "whole number or null")),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_in_one_line(kind: Any, value: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        typed("group.key", kind, value)
    assert words in str(caught.value)
    assert "group.key" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_value_in_quotes_on_the_command_line_keeps_them_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert load_config(["dataset=image_folder", "dataset.folder='/a b'"]).dataset.folder == "'/a b'"
    assert "dataset.folder='/a b': the quotes are part of the value" in caplog.text


SLIPS = [
    ("name: digits\n  image_size: 16\n", (2, 13), "no YAML"),
    ("name: digits\n\timage_size: 16\n", (2, 1), "not tabs"),
    (b"name: digits\nfolder: /data/caf\xe9\n", (2, 18), "0xe9 is no UTF-8"),
    ("- name: digits\n", (1, 1), "not a list"),
    ("digits\n", (1, 1), "not 'digits'"),
    ("", (1, 1), "`name:` is missing"),
    ("image_size: 16\n", (1, 1), "`name:` is missing"),
    ("name: digits\nname: lfw\n", (2, 1), "twice"),
    ("name: digits\nimage_size: sixteen\n", (2, 13), "whole number"),
    ("name: digits\nimage_size: null\n", (2, 13), "whole number"),
    ("name: digits\nimage_size: [16]\n", (2, 13), "whole number"),
    ("name: digits\nimage_sise: 16\n", (2, 1), "did you mean dataset.image_size"),
    ("name: digitz\n", (1, 7), "did you mean digits"),
    ("name: [digits\n", (2, 1), "no YAML"),
    ("name: digits\nfolder: !!python/object/apply:os.getcwd []\n", (2, 9), "tag"),
    ("name: digits\nfolder: !secret x\n", (2, 9), "tag"),
    ("name: digits\nfolder: &a [*a]\n", (2, 9), "alias"),
    ("name: digits\n? [a, b]\n: 3\n", (2, 3), "must be a word"),
    ("name: digits\n---\nname: lfw\n", (2, 1), "no YAML"),
    ("name: digits\nfolder: a\x07b\n", (2, 10), "U+0007"),
    ("name: digits\nfolder: *nobody\n", (2, 9), "no YAML"),
    ('name: digits\nfolder: "a\\qb"\n', (2, 12), "no YAML"),
    ('name: digits\nfolder: "a\\0b"\n', (2, 9), "NUL"),
    ("name: digits\n<<: 3\n", (2, 1), "mappings"),
]


@pytest.mark.parametrize(("content", "place", "words"), SLIPS)
def test_a_slip_in_a_file_is_named_with_line_and_column(
    content: str | bytes, place: tuple[int, int], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        _option(tmp_path, content)
    line, column = place
    assert f"mine.yaml, line {line}, column {column}: " in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfname: digits\nimage_size: 16\n",
        b"name: digits\r\nimage_size: 16\r\n",
        "name: digits\nimage_size: 16\n".encode("utf-16"),
        b'name: digits\nimage_size: "16"\n',
        b"base: &b {image_size: 16}\n<<: *b\nname: digits\n",
        b"# a comment\n\n---\n{name: digits, image_size: 0x10}\n",
    ],
)
def test_files_as_editors_write_them_are_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(content)
    found = {key: value for key, value in read_mapping(tmp_path / "f.yaml").items() if key != "base"}
    assert found.keys() == {"name", "image_size"}
    assert typed("image_size", int, found["image_size"]) == 16


def test_a_file_nested_without_end_is_refused() -> None:
    with pytest.raises(UserError, match="nested more than 32 levels"):
        parse_yaml("[" * 5000, "f.yaml")


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    assert _option(tmp_path, "name: digits\nimage_size: 8\n").dataset.image_size == 8
    assert _option(tmp_path, "name: digits\nimage_size: 16\n").dataset.image_size == 16


def _option(folder: Path, content: str | bytes) -> Any:
    """A run of the option dataset=mine, whose file has that content."""
    (folder / "dataset").mkdir(exist_ok=True)
    (folder / "dataset" / "mine.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    return load_config(["dataset=mine"], config_dir=folder)
