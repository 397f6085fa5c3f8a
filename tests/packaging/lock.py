"""Writes the locks of a release, with hashes: `python -m tests.packaging.lock` (make lock).

requirements/release.txt is rnet with what users add by extras; requirements/mpi.txt is an MPI, which clusters have of
their own. They hold the versions that are installed here, where the tests have passed, for Linux on x86_64.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement

from tests.packaging.distributions import EXTRAS, ROOT, required

WITH_EXTRAS = ("parquet", "sign")
LOCKS = {"release.txt": required(*WITH_EXTRAS), "mpi.txt": [Requirement(text) for text in EXTRAS["mpi"]]}
"""What each is made from."""


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """By name, the version that a lock says and the hashes of its files."""
    found = {}
    for block in re.split(r"\n(?=\S)", (ROOT / "requirements" / name).read_text().strip()):
        first, *hashes = block.replace("\\\n", "").split("--hash=")
        one = Requirement(first.strip())
        assert str(one.specifier).startswith("=="), one
        found[one.name] = str(one.specifier)[2:], [text.strip() for text in hashes]
    return found


def main() -> None:
    """Needs the network: asks the index for the hashes of all files of each version."""
    installed = [f"{one.name}=={one.version}" for one in distributions() if one.name != "rnet"]
    for name, requirements in LOCKS.items():
        with tempfile.TemporaryDirectory() as folder:
            given, here = Path(folder) / "requirements.in", Path(folder) / "installed.txt"
            given.write_text("\n".join(map(str, requirements)))
            here.write_text("\n".join(installed))
            command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--generate-hashes", "--quiet"]
            command += ["--python-version", "3.11", "--no-header", "--no-annotate", "--constraints", str(here)]
            target = ROOT / "requirements" / name
            subprocess.run([*command, "--output-file", str(target), str(given)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
