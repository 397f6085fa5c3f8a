"""`rnet bench all`: every benchmark of one process, one after the other, so that one call measures a machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from launch.benchmark import SUBJECTS, Document
from rnet.command.run import Options, console, require_one_process, show_json
from rnet.errors import UserError, first_line

_ATTACK = ["dataset=digits", "attack.num_poison_steps=20", "model=torchvision"]
ON_CUDA = [
    ("kernels", []),
    *(
        ("attack", [*_ATTACK, f"model.name={name}", f"dataset.image_size={px}", f"attack.batch_size={batch}",
                    "precision=bf16", f"rounds={rounds}"])
        for name, px, batch, rounds in (("vgg19_bn", 32, 128, 5), ("resnet50", 224, 64, 3), ("vit_b_16", 224, 64, 3))
    ),
    ("fingerprint", ["dataset=digits", "model=resnet8", "rounds=1"]),
    ("data", ["rounds=3"]),
]  # fmt: skip
"""Subjects and their overrides, on an accelerator."""
ON_CPU = [
    ("kernels", []),
    ("attack", [*_ATTACK, "model.name=resnet18", "dataset.image_size=32", "attack.batch_size=64", "rounds=3"]),
    ("fingerprint", ["dataset=digits", "model=resnet8", "rounds=1"]),
    ("data", ["images=600", "rounds=3"]),
]
_NUMBERS_OF = {"attack": {"rounds", "profile"}, "data": {"rounds", "images"}, "fingerprint": {"rounds"}}
_NUMBERS = {"rounds", "profile", "images"}


def run_all(overrides: Sequence[str], options: Options) -> None:
    """Shows what each benchmark shows, or with --json prints {"device", "made_by", "seconds", "subjects":
    [{"subject", "overrides", "seconds", and the subject's document or "error"}]}.

    overrides come after those of each subject. A subject that fails does not stop the others; then raises UserError at
    the end, with all that failed.
    """
    import torch

    from rnet.config.run import load_config
    from rnet.report.origin import made_by
    from rnet.training.loop import resolve_device

    require_one_process("rnet bench")
    started = time.perf_counter()
    device = resolve_device(load_config(_meant_for("", overrides), config_dir=options.config_dir).engine.device)
    subjects: list[Document] = []
    for subject, own in ON_CUDA if device.type == "cuda" else ON_CPU:
        given = [*own, *_meant_for(subject, overrides)]
        sys.stderr.write(f"rnet bench {subject} {' '.join(given)}\n")
        measure, show = SUBJECTS[subject]
        begun = time.perf_counter()
        about: dict[str, Any] = {"subject": subject, "overrides": given}
        try:
            document = measure(given, replace(options, as_json=False))
        except (UserError, torch.cuda.OutOfMemoryError) as error:
            about["error"] = first_line(error)
        else:
            about |= document
            if not options.as_json:
                show(document)
        subjects.append(about | {"seconds": time.perf_counter() - begun})
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    if options.as_json:
        show_json(
            {"device": name, "made_by": made_by(), "seconds": time.perf_counter() - started, "subjects": subjects}
        )  # fmt: skip
    else:
        console().print(f"{len(subjects)} benchmarks in {time.perf_counter() - started:.0f} s")
    if failed := [f"{about['subject']}: {about['error']}" for about in subjects if "error" in about]:
        raise UserError("; ".join(failed))


def _meant_for(subject: str, overrides: Sequence[str]) -> list[str]:
    """Settings of a run, and those numbers of a benchmark that the subject has."""
    others = _NUMBERS - _NUMBERS_OF.get(subject, set())
    return [line for line in overrides if line.partition("=")[0] not in others]
