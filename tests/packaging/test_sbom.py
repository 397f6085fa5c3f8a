"""The bill of materials says what a release brings along, in a form that other programs read."""

from __future__ import annotations

import json
from typing import Any

import pytest

import rnet
from tests.packaging.distributions import pulled_in
from tests.packaging.lock import WITH_EXTRAS, locked
from tests.packaging.sbom import bill_of_materials


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    return json.loads(bill_of_materials(pulled_in(*WITH_EXTRAS)))


def test_components_have_version_licence_and_place(bill: dict[str, Any]) -> None:
    parts = {one["name"]: one for one in bill["components"]}
    for name, licence in {"torch": "Apache-2.0", "deepspeed": "Apache"}.items():
        version, files = locked("release.txt")[name]
        assert parts[name]["version"] == version
        assert licence in json.dumps(parts[name]["licenses"])
        assert parts[name]["purl"] == f"pkg:pypi/{name}@{version}"
        (distribution,) = parts[name]["externalReferences"]
        assert sorted(f"sha256:{one['content']}" for one in distribution["hashes"]) == sorted(files)


def test_it_is_rnets_and_says_who_needs_whom(bill: dict[str, Any]) -> None:
    about = bill["metadata"]["component"]
    assert (about["name"], about["version"], about["licenses"]) == (
        "rnet",
        rnet.__version__,
        [{"license": {"id": "MIT"}}],
    )
    needs = {one["ref"].partition("==")[0]: one.get("dependsOn", []) for one in bill["dependencies"]}
    assert {"torch", "deepspeed", "cryptography"} <= {ref.partition("==")[0] for ref in needs["rnet"]}
    assert [ref.partition("==")[0] for ref in needs["sympy"]] == ["mpmath"]
