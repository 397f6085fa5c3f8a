"""What TensorBoard says of a run in words: what it is, what it was made of, and by what."""

from __future__ import annotations

import platform

import torch

from rnet import __version__
from rnet.config.documents import to_yaml
from rnet.parallel.collectives import world_size
from rnet.stages.store import StageFolder


def run_texts(folder: StageFolder) -> dict[str, str]:
    """Markdown by name."""
    about = {
        "rnet": __version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "machine": platform.node(),
        "processes": world_size(),
    }
    rows = "".join(f"| {name} | {value} |\n" for name, value in about.items())
    return {
        "configuration": f"`{folder.label}`: all that the result depends on.\n\n```yaml\n{to_yaml(folder.document)}```",
        "versions": f"| of | version |\n|---|---|\n{rows}",
    }
