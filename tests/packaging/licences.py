"""Which licences rnet's dependencies have, by their metadata: `python -m tests.packaging.licences` prints them."""

from __future__ import annotations

import re
from importlib.metadata import Distribution

from tests.packaging.distributions import USERS, pulled_in

ALLOWED = re.compile(
    r"(0BSD|Apache|BSL-1\.0|((New|[23][- ]Clause) )?BSD|CC0-1\.0|ISC|MIT|PSF|Python Software Foundation|Unlicense|Zlib)"
    r"\b.*",
    re.IGNORECASE,
)
"""Permissive ones, as SPDX, classifiers and people write them."""
EXCEPTIONS = {
    r"cuda-toolkit": "no licence in its metadata: it has no files of its own and names NVIDIA's packages",
    r"nvidia-.*": "NVIDIA's own: CUDA libraries that torch needs; from NVIDIA's packages, under NVIDIA's terms",
    r"openmpi": "LicenseRef-OpenMPI: the 3-clause BSD licence under a name of its own; only with rnet[mpi]",
    r"tqdm": "MPL-2.0 beside MIT: changed files of it must stay open; rnet uses it as it is",
}
"""Distributions with another licence, and why they are taken all the same."""
_TEXT = re.compile(r"(.*/)?(licen[cs]e|copying|notice|legal|copyright|eula)[^/]*$|.*/licenses/.*", re.IGNORECASE)


def licence(distribution: Distribution) -> str:
    """What its metadata says, in one line: the SPDX expression, else its field if that is no text, else classifiers.

    Empty if it says nothing.
    """
    about = distribution.metadata
    field = (about.get("License") or "").strip()
    if expression := about.get("License-Expression") or (field if field and len(field.splitlines()) == 1 else None):
        return str(expression)
    classified = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or () if line.startswith("License ::")]
    return " OR ".join(classified)


def is_allowed(words: str) -> bool:
    """Whether one of the alternatives asks for nothing but permissive licences."""
    alternatives = [re.split(r"\bAND\b", one.replace("(", " ").replace(")", " ")) for one in re.split(r"\bOR\b", words)]
    return any(all(ALLOWED.fullmatch(word.strip()) for word in words) for words in alternatives)


def exception(name: str) -> str | None:
    """Why a distribution with another licence is taken; None if nobody has decided so."""
    return next((reason for pattern, reason in EXCEPTIONS.items() if re.fullmatch(pattern, name)), None)


def texts(distribution: Distribution) -> list[str]:
    """The installed files that hold its licence."""
    return [str(file) for file in distribution.files or () if _TEXT.fullmatch(str(file))]


def main() -> None:
    """A line for each distribution."""
    for name, distribution in pulled_in(*USERS).items():
        remark = "" if is_allowed(licence(distribution)) else f"  ({exception(name)})"
        print(f"{name} {distribution.version}: {licence(distribution)}{remark}")  # noqa: T201


if __name__ == "__main__":
    main()
