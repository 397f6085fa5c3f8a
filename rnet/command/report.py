"""`rnet report`: one page about suspects, given as for `rnet verify`, or about stages of a store, STAGE/ID."""

from __future__ import annotations

from collections.abc import Sequence

from rnet.command.run import Options, require_one_process, run_stage
from rnet.command.verdicts import verify
from rnet.errors import UserError


def report(targets: Sequence[str], options: Options) -> None:
    """The page, or tables, of what is named. Raises UserError for stages and settings side by side, or for nothing."""
    stages = [target for target in targets if "=" not in target]
    if stages and len(stages) < len(targets):
        raise UserError(f"{stages[0]!r} is a stage, {_setting(targets)!r} a setting; name stages or settings, not both")
    if not stages:
        run_stage("verify", targets, options, verify)
        return
    if len(stages) > 1:
        raise UserError(f"{len(stages)} stages are named, {' '.join(stages)}; a page is of one: take the others out")
    require_one_process("rnet report STAGE/ID")
    _report_run(stages[0], options)


def _report_run(label: str, options: Options) -> None:
    from rnet.report.formats import PAGE, check_format
    from rnet.report.output import shown_tables, write_page
    from rnet.report.run_page import report_of_run

    kind = options.format or PAGE
    if options.tables:
        raise UserError(f"--table={options.tables[0]} is of suspects and sweeps; the page of a stage has its own")
    out = options.out
    made = report_of_run(options.root, label)
    check_format(kind, [table.name for table in made.tables], out)
    text = write_page(made.page, out) if kind == PAGE else shown_tables(made.tables, kind, out)
    print(text, end="")  # noqa: T201


def _setting(targets: Sequence[str]) -> str:
    return next(target for target in targets if "=" in target)
