"""Inputs that coverage leads to, by atheris (pip install 'rnet[fuzz]'); what reaches new code is kept in the corpus."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from tests.fuzz.campaign import Trial, quietly
from tests.fuzz.target import Target

PACKAGES = ("rnet.", "launch.", "yaml.", "pickletools", "tarfile", "zipfile")
"""Whose branches are counted."""


def run_guided(target: Target, count: int, seed: int, corpus: Path) -> NoReturn:
    """So many inputs of one target; prints what came of them. The process ends: the library keeps no other way."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install 'rnet[fuzz]', or leave out --guided")
    place = corpus / target.name
    place.mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        (place / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    place, keep = place.absolute(), Path(tempfile.mkdtemp(prefix="rnet-findings-"))
    with quietly() as folder:
        trial = Trial(target, folder, keep)
        for data in target.seeds():
            trial.one(data)
        for function in _functions():
            atheris.instrument_func(function)

        def one(data: bytes) -> None:
            if trial.outcome.inputs >= count:
                print(f"{trial.outcome}; corpus in {place}, findings in {keep}", flush=True)  # noqa: T201
                shutil.rmtree(folder)
                os._exit(1 if trial.outcome.findings else 0)
            trial.one(data)

        atheris.Setup(
            [sys.argv[0], f"-seed={seed + 1}", "-timeout=0", "-max_len=65536", "-verbosity=0", str(place)], one
        )
        atheris.Fuzz()
    raise AssertionError("the library does not return")


def _functions() -> list[Any]:
    found = []
    for name, module in list(sys.modules.items()):
        if name.startswith(PACKAGES) or f"{name}." in PACKAGES:
            owners = [
                module,
                *(kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == name),
            ]
            found += [value for owner in owners for value in vars(owner).values() if inspect.isfunction(value)]
    return [function for function in found if not hasattr(function, "__wrapped__")]
