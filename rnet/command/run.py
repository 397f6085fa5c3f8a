"""What the commands do, however they are started: `rnet attack ...` and `python -m rnet attack ...` both end here.

Standard output carries the result (a table, or JSON with --json); everything else goes to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rnet.command.imported import show_check, show_origin
from rnet.errors import UserError
from rnet.training.signals import Preempted

if TYPE_CHECKING:
    from rnet.config.run import RunConfig
    from rnet.stages.store import Store


@dataclass(frozen=True, kw_only=True)
class Options:
    """What commands take besides overrides; tables, format and out: of those that show tables."""

    root: Path = Path("runs")
    as_json: bool = False
    print_config: bool = False
    config_dir: Path | None = None
    tables: tuple[str, ...] = ()
    format: str | None = None
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What overrides stand for: configurations, and by which names the user chose each one's options, by group.

    typed: the overrides themselves.
    """

    configs: list[RunConfig]
    chosen: list[dict[str, str]]
    typed: Sequence[str] = ()


Act = Callable[[Runs, "Store", Options], None]


def require_one_process(command: str) -> None:
    """Raises UserError where torchrun, srun or mpiexec started several."""
    from rnet.parallel.launch import launched

    if (count := launched().world_size) > 1:
        raise UserError(f"{command} is one process, but {count} were started; start it alone")


def run_import(file: str, overrides: Sequence[str], options: Options) -> None:
    """Imports a victim from a file of weights, and shows what it was taken for and how it does."""
    if not Path(file).expanduser().is_file():
        what = "is a folder" if Path(file).expanduser().is_dir() else "does not exist"
        raise UserError(f"the file of weights {file!r} {what}; write rnet import FILE [KEY=VALUE]...")
    if given := [line for line in overrides if line.partition("=")[0] == "model.weights"]:
        raise UserError(f"{given[0]!r} names weights, and so does {file!r}; take one out")
    run_stage("train", [*overrides, f"model.weights={file}"], options)


def run_stage(stage: str, overrides: Sequence[str], options: Options, act: Act | None = None) -> None:
    """Runs one stage for every combination of attacks, defences and seeds given, and shows what came out, or acts.

    Started several times by torchrun, srun or mpiexec, the processes share the work, and the first one shows it.
    """
    from rnet.command.suspects import runs_of
    from rnet.config.documents import run_to_dict, to_yaml
    from rnet.config.run import Configurations
    from rnet.parallel.launch import launched
    from rnet.parallel.processes import process_group
    from rnet.stages.graph import document as hashed_document
    from rnet.stages.store import Store
    from rnet.training.loop import resolve_device
    from rnet.training.monitor.startup import startup

    known = Configurations(options.config_dir)
    runs = runs_of(stage, overrides)
    configs = [known.load(lines) for lines in runs]
    if options.print_config:
        document = {"run": run_to_dict(configs[0]), "hashed": hashed_document(stage, configs[0])}
        show_json(document) if options.as_json else sys.stdout.write(to_yaml(document))
        return
    startup.imported()
    device = resolve_device(configs[0].engine.device)
    with process_group(launched(), device.type, backend=configs[0].engine.backend, agreed=(Preempted,)):
        if act is None:
            _run_stage(stage, configs, options)
        else:
            chosen = [known.chosen(lines) for lines in runs]
            act(Runs(configs=configs, chosen=chosen, typed=overrides), Store(options.root), options)


def _run_stage(stage: str, configs: list[RunConfig], options: Options) -> None:
    from rnet.config.documents import flattened
    from rnet.parallel.collectives import rank
    from rnet.stages.stages import STAGES
    from rnet.stages.store import Store

    store = Store(options.root)
    found: list[dict[str, Any]] = []
    for config in configs:
        folder = STAGES[stage](config, store)
        found.append({"stage": stage, "id": folder.id, "folder": str(folder.path), "result": folder.result()})
    if rank() > 0:
        return
    if options.as_json:
        show_json(found[0] if len(found) == 1 else {"rows": found})
        return
    for row in found:
        if "import" in row["result"]:
            show_origin(f"What {stage} {row['id']} was taken for", row["result"].pop("import"), console())
        if "check" in row["result"]:
            show_check(row["result"], row["folder"], console())
            continue
        show_values(f"{stage} {row['id']}", flattened({**row["result"], "folder": row["folder"]}))


def console() -> Console:
    """Standard output; wide enough for every table where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 120)


def show_json(document: Any) -> None:
    """The document on standard output; NaN becomes null so that every JSON reader takes it."""
    print(json.dumps(_finite(document), indent=2))  # noqa: T201


def show_values(title: str, values: dict[str, Any]) -> None:
    """Names and values as a two-column table on standard output."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    console().print(table)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
