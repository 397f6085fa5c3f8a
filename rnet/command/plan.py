"""`rnet plan memory`: what each process of a stage will hold, before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rnet.command.run import Options, console, require_one_process, show_json
from rnet.errors import UserError

if TYPE_CHECKING:
    from rnet.planning.fit import Fit

Fitting = Annotated[
    str | None,
    typer.Option("--fit", metavar="SIZE", help="Choose settings with which a process holds no more, e.g. 40GiB."),
]
_GIB = 2**30


def plan_memory(overrides: Sequence[str], fit: str | None, options: Options) -> None:
    """Shows a table, or JSON. Ends the process with status 1 where a stage does not fit.

    Two keys are the command's own: stage=train,attack (all four by default) and processes=8.
    """
    from rnet.config.run import load_config
    from rnet.data.loading import load_dataset_once
    from rnet.models.origin import as_imported
    from rnet.planning.fit import Fit, bytes_of, check_run, fit_stage
    from rnet.planning.plan import loaded_images, plan_stage
    from rnet.stages.graph import check_settings
    from rnet.stages.memory import peak_memory

    require_one_process("rnet plan")
    stages, processes, rest = _own(overrides)
    config = as_imported(load_config(rest, config_dir=options.config_dir))
    room = None if fit is None else bytes_of(fit)
    for stage in stages:
        check_settings(stage, config)
    found: list[Fit] = []
    dataset = load_dataset_once(config.dataset)
    for stage in stages:
        if room is None:
            check_run(stage, config, dataset, processes)
            found.append(Fit(plan=plan_stage(stage, config, dataset, processes), overrides=[], fits=True))
        else:
            found.append(fit_stage(stage, config, dataset, processes, room))
    baseline = max(0, peak_memory().get("host", 0) - loaded_images(dataset))  # which are planned
    if options.as_json:
        rows = [{**asdict(one), "total": one.plan.total} for one in found]
        show_json({"rows": rows, "room": room, "baseline": baseline})
    else:
        _show(found, room, baseline)
    if not all(one.fits for one in found):
        raise SystemExit(1)


def _own(overrides: Sequence[str]) -> tuple[list[str], int, list[str]]:
    from rnet.stages.graph import STAGE_NAMES, named_stages

    stages, processes, rest = list(STAGE_NAMES), 1, []
    for line in overrides:
        key, _, value = line.partition("=")
        if key == "stage":
            stages = named_stages(value)
        elif key == "processes":
            if not value.isdecimal() or int(value) < 1:
                raise UserError(f"processes={value!r} must be a whole number of at least 1")
            processes = int(value)
        else:
            rest.append(line)
    return stages, processes, rest


def _show(found: Sequence[Fit], room: int | None, baseline: int) -> None:
    table = Table(title="Memory of each process, in GiB", title_justify="left")
    columns = {"stage": "left", "engine": "left", "processes": "right", "total": "right", "when": "left"}
    for name, justify in columns.items():
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("largest parts")
    for one in found:
        plan = one.plan
        largest = sorted(plan.parts.items(), key=lambda part: -part[1])[:4]
        over = "" if one.fits else " (does not fit)"
        table.add_row(
            plan.stage, plan.engine, str(plan.processes), f"{plan.total / _GIB:.3f}{over}", plan.moment,
            "\n".join(f"{size / _GIB:.3f} {owner}" for owner, size in largest),
        )  # fmt: skip
    console().print(table)
    print(f"Python, torch and their libraries come on top: {baseline / _GIB:.1f} GiB of the host in this process.")  # noqa: T201
    if room is None:
        return
    for one in found:
        words: Any = " ".join(one.overrides) or "nothing to change"
        print(f"{one.plan.stage}: {words}" if one.fits else _why_not(one, room))  # noqa: T201


def _why_not(one: Fit, room: int) -> str:
    plan = one.plan
    owner, size = max(plan.parts.items(), key=lambda part: part[1])
    least = " ".join(one.overrides) or "the settings as they are"
    return (
        f"{plan.stage}: does not fit {room / _GIB:.3f} GiB; the least is {plan.total / _GIB:.3f} GiB with {least}, of "
        f"which {size / _GIB:.3f} GiB are {owner} ({plan.moment})"
    )
