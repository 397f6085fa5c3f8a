"""The definition of the container names what is there."""

from __future__ import annotations

import re

from tests.packaging.distributions import ROOT

DEFINITION = (ROOT / "slurm" / "apptainer.def").read_text()
SECTIONS = {"labels", "files", "post", "environment", "runscript", "test", "help"}
"""Those of Apptainer that it may use; setup would run on the host."""


def sections() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for block in re.split(r"^%", DEFINITION, flags=re.MULTILINE)[1:]:
        name, *lines = block.splitlines()
        found[name.strip()] = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return found


def test_it_has_a_base_and_known_sections() -> None:
    header = dict(re.findall(r"^(\w+): (\S+)$", DEFINITION.partition("%")[0], re.MULTILINE))
    assert header == {"Bootstrap": "docker", "From": "python:3.11-slim-bookworm"}
    assert set(sections()) == SECTIONS


def test_its_files_are_there_and_are_what_it_installs() -> None:
    copied = [line.split() for line in sections()["files"]]
    assert [source for source, _ in copied if not source.startswith("dist/") and not (ROOT / source).is_file()] == []
    installed = re.findall(r"/opt/dist/\S+", "\n".join(sections()["post"]))
    assert sorted(installed) == sorted(
        [*(target for source, target in copied if "*" not in source), "/opt/dist/rnet-*.whl"]
    )
    for line in sections()["post"]:
        if line.startswith("pip install"):
            assert "--require-hashes" in line or "--no-deps" in line
