"""What a stage's resources are to sbatch, in the way in which a site wants them asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from launch.sweep.clusters.offers import Need, parse_gpus, parse_memory, parse_minutes
from launch.sweep.plan.resources import Shape
from rnet.config.values import shown
from rnet.errors import UserError, unknown_name

MEMORY_OPTIONS = ("mem", "mem-per-cpu", "mem-per-gpu")
"""Ways to ask for memory, of which sbatch takes one."""
GPU_OPTIONS = ("gpus-per-task", "gpus-per-node", "gpus", "gres")
"""Ways to ask for GPUs, of which a site may take only some."""
OTHER_GPU_OPTIONS = ("gpus-per-socket", "tres-per-task", "tres-per-job", "tres-per-node")
NONE = "none"
RESERVED = {
    "array": "rnet makes the arrays; see max_parallel and max_array_size",
    "clusters": "write clusters: NAME beside partition",
    "dependency": "rnet makes the tasks wait for their parents",
    **dict.fromkeys(("job-name", "output", "error"), "rnet finds jobs and logs by it"),
    **dict.fromkeys(("wrap", "wait", "test-only", "parsable", "quiet"), "rnet calls sbatch with a script"),
}
"""Options of sbatch that a profile cannot set, and why."""


def own_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """A profile's options of sbatch by their long names, written with -. Raises UserError for what is none."""
    own = {}
    for key, value in given.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", key) or isinstance(value, list | dict):
            raise UserError(f"sbatch.{key}={shown(value)} must be one option by its long name, e.g. mail-type: END")
        name = key.replace("_", "-")
        if name in RESERVED:
            raise UserError(f"sbatch.{key}={shown(value)} cannot be set: {RESERVED[name]}; take it out")
        if name in own:
            raise UserError(f"sbatch.{key}={shown(value)} is there twice, once with _ and once with -; take one out")
        own[name] = value
    asked = [name for name in MEMORY_OPTIONS if own.get(name) not in (None, False)]
    if len(asked) > 1:
        raise UserError(f"sbatch.{asked[0]} and sbatch.{asked[1]} exclude each other; take one out")
    return own


def check_ways(memory_option: str, gpu_option: str) -> None:
    """Raises UserError for a way that there is not."""
    for key, value, known in (
        ("memory_option", memory_option, (*MEMORY_OPTIONS, NONE)),
        ("gpu_option", gpu_option, GPU_OPTIONS),
    ):
        if value not in known:
            raise unknown_name(key, value, known)


def resource_options(
    shape: Shape, own: Mapping[str, Any], memory_option: str, gpu_option: str, gpu_type: str | None
) -> dict[str, Any]:
    """sbatch's options for memory and GPUs of a task, but for what the profile asks for in its own way.

    Memory is written in MiB, rounded up.
    """
    options: dict[str, Any] = {}
    if memory_option != NONE and not own.keys() & set(MEMORY_OPTIONS):
        name, shares = memory_option, 1
        if name == "mem-per-cpu":
            shares = shape.processes * shape.cpus
        elif name == "mem-per-gpu" and shape.gpus:
            shares = shape.processes * shape.gpus
        elif name == "mem-per-gpu":
            name = "mem"
        options[name] = f"{max(1, math.ceil(round(shape.memory_gb * 1024, 6) / shares))}M"
    if shape.gpus and not own.keys() & {*GPU_OPTIONS, *OTHER_GPU_OPTIONS}:
        on_node = shape.gpus * shape.processes
        count = {"gpus-per-task": shape.gpus, "gpus": on_node * shape.nodes}.get(gpu_option, on_node)
        kind = [gpu_type] if gpu_type else []
        options[gpu_option] = ":".join([*(["gpu"] if gpu_option == "gres" else []), *kind, str(count)])
    return options


def need_of(
    stage: str, shape: Shape, own: Mapping[str, Any], memory_option: str, gpu_type: str | None, packing: int = 1
) -> Need:  # fmt: skip
    """What a task asks of a node, as far as rnet knows the options that ask for it. packing: of its array."""
    many = f" for each of {shape.processes} processes" if shape.processes > 1 else ""
    texts = {"nodes": f"resources.nodes={shape.nodes}"}
    found: dict[str, Any] = {"nodes": shape.nodes}
    if not own.keys() & {"ntasks-per-node", "cpus-per-gpu", "ntasks"}:
        cpus, texts["cpus"] = shape.cpus, f"resources.cpus={shape.cpus}{many}"
        if "cpus-per-task" in own:
            cpus = int(own["cpus-per-task"]) if str(own["cpus-per-task"]).isdecimal() else 1
            texts["cpus"] = f"sbatch.cpus-per-task={cpus}{many}"
        found["cpus"] = cpus * shape.processes
    if "time" not in own:
        found["minutes"], texts["minutes"] = shape.minutes, f"resources.minutes={shape.minutes}"
        if packing > 1:
            times = f"{packing} times as a low max_submissions makes cells share a task"
            texts["minutes"] = f"resources.minutes={shape.minutes // packing}, {times},"
    elif own["time"]:
        found["minutes"], texts["minutes"] = parse_minutes(str(own["time"])) or 0, f"sbatch.time={own['time']}"
    if own.get("mem"):
        found["memory_mb"], texts["memory_mb"] = parse_memory(str(own["mem"])) or 0, f"sbatch.mem={own['mem']}"
    elif memory_option != NONE and not own.keys() & set(MEMORY_OPTIONS):
        found["memory_mb"] = round(shape.memory_gb * 1024)
        texts["memory_mb"] = f"resources.memory_gb={shape.memory_gb:g}"
    elif own.get("mem-per-cpu") and "cpus" in found:
        found["memory_mb"] = (parse_memory(str(own["mem-per-cpu"])) or 0) * found["cpus"]
        texts["memory_mb"] = f"sbatch.mem-per-cpu={own['mem-per-cpu']} for each of {found['cpus']} CPUs"
    asked = [name for name in (*GPU_OPTIONS, *OTHER_GPU_OPTIONS) if own.get(name)]
    if asked in (["gres"], ["gpus-per-node"]):
        text = str(own[asked[0]])
        for kind, count in parse_gpus(text if asked == ["gres"] else f"gpu:{text}").items():
            found |= {"gpus": count, "gpu_type": kind or None}
            texts["gpus"] = f"sbatch.{asked[0]}={text}"
    elif shape.gpus and not asked:
        found |= {"gpus": shape.gpus * shape.processes, "gpu_type": gpu_type}
        texts["gpus"] = f"resources.gpus={shape.gpus}{many}"
    return Need(stage=stage, texts=texts, **found)
