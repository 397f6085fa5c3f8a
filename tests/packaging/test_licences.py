"""What rnet depends on may be used by everyone who may use rnet; what is otherwise has been decided, and is told."""

from __future__ import annotations

import re

import pytest

from tests.packaging.distributions import ROOT, USERS, pulled_in
from tests.packaging.licences import EXCEPTIONS, exception, is_allowed, licence, texts

WITHOUT_TEXT = {"cuda-toolkit", "tensorboard-data-server"}
"""Their wheels hold no text of a licence."""


def test_every_licence_is_permissive_or_an_exception_with_a_reason() -> None:
    undecided = {
        name: licence(one)
        for name, one in pulled_in(*USERS).items()
        if not is_allowed(licence(one)) and exception(name) is None
    }
    assert not undecided


def test_every_distribution_brings_the_text_of_its_licence() -> None:
    assert {name for name, one in pulled_in(*USERS).items() if not texts(one)} <= WITHOUT_TEXT


def test_every_exception_is_told_to_users() -> None:
    page = (ROOT / "docs" / "licences.md").read_text()
    assert [name for name in EXCEPTIONS if f"`{name.replace('.*', '*')}`" not in page] == []


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ("MIT", True), ("Apache-2.0 OR GPL-3.0", True), ("(MIT OR GPL-2.0-only)", True), ("BSD License", True),
        ("3-Clause BSD License", True), ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception", True),
        ("MIT AND GPL-3.0", False), ("LGPL-3.0", False), ("GPL", False), ("AGPL-3.0 OR SSPL-1.0", False), ("", False),
        ("MPL-2.0 AND MIT", False), ("LicenseRef-NVIDIA-Proprietary", False), ("MITRE", False),
    ],
)  # fmt: skip
def test_which_licences_are_permissive(words: str, allowed: bool) -> None:
    assert is_allowed(words) is allowed


def test_exceptions_are_of_whole_names() -> None:
    assert exception("nvidia-cublas")
    assert exception("tqdm-extras") is None
    assert all(re.compile(pattern) for pattern in EXCEPTIONS)
