"""The locks of a release hold all that rnet asks for, with versions that suit it and hashes of their files."""

from __future__ import annotations

import re

import pytest
from packaging.utils import canonicalize_name

from tests.packaging.distributions import children, pulled_in
from tests.packaging.lock import LOCKS, WITH_EXTRAS, locked


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_suits_what_rnet_asks_for(name: str) -> None:
    found = locked(name)
    for wanted in LOCKS[name]:
        assert canonicalize_name(wanted.name) in found, f"{wanted}: run make lock"
        version, _ = found[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version, prereleases=True), f"{wanted}: run make lock"


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_version_has_the_hashes_of_its_files(name: str) -> None:
    for part, (_, hashes) in locked(name).items():
        assert hashes, part
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes)


def test_the_lock_has_all_that_its_own_versions_need() -> None:
    found = locked("release.txt")
    for name, one in pulled_in(*WITH_EXTRAS).items():
        if name in found and found[name][0] == one.version:
            assert children(one) <= found.keys(), f"{name} needs more: run make lock"
