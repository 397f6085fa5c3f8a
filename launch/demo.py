"""The main job on the embedded default, end to end: a victim, its suspects, IPGuard on each, a table and a page."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from rnet.command.run import Options, Runs, console, require_one_process, show_json

if TYPE_CHECKING:
    from rnet.stages.store import Store

SUSPECTS = ("identity", "finetune", "removalnet")
LEAD = (
    "Somebody stole a trained network, the victim, and says that it is their own. Its owner proves the theft with a "
    "fingerprint: images near the victim's decision boundaries, on which a copy answers like the victim and an "
    "independent model does not (IPGuard). Does the proof survive an attacker who tries to remove it? Below are the "
    "victim itself, a copy that was fine-tuned, a copy that RemovalNet attacked, and three models that were trained "
    "independently. The farther right, the more a model answers like the victim; beyond the bar it is called derived."
)


def run_demo(overrides: Sequence[str], options: Options) -> None:
    """Computes what is missing, then shows one row per suspect; with --json {"rows": [...], ...} on standard output."""
    from rnet.config.documents import run_to_dict, to_yaml
    from rnet.config.run import Configurations
    from rnet.stages.graph import negative_configs
    from rnet.stages.stages import train
    from rnet.stages.store import Store
    from rnet.training.monitor.startup import startup
    from rnet.verdicts.examine import check, examine

    startup.imported()
    require_one_process("rnet demo")
    started = time.monotonic()
    store = Store(options.root)
    known = Configurations(options.config_dir)
    lines = [_for_suspect(name, ["negatives=3", "engine.pictures=true", *overrides]) for name in SUSPECTS]
    configs = [known.load(one) for one in lines]
    if options.print_config:
        show_json(run_to_dict(configs[-1])) if options.as_json else sys.stdout.write(to_yaml(run_to_dict(configs[-1])))
        return
    check(configs, store)
    victim = train(configs[0], store)
    negatives = negative_configs(configs[0])
    found = examine([*configs, *negatives], store)
    rows = [_demo_row(row) for row in found]
    rows[0]["seconds"] = victim.status().get("seconds", 0.0)
    chosen = [known.chosen(one) for one in lines]
    chosen += [{**chosen[0], "attack": row["suspect"]} for row in found[len(configs) :]]
    page = _page(found, Runs(configs=[*configs, *negatives], chosen=chosen, typed=overrides), store, options.root)
    if options.as_json:
        show_json({"rows": rows, "page": str(page), "victim": victim.id, "tensorboard": _tensorboard(options.root)})
        return
    _show(rows, page, options.root, time.monotonic() - started)


def _page(found: list[dict[str, Any]], runs: Runs, store: Store, root: Path) -> Path:
    """Writes the page of the demo; returns its path."""
    from rnet.command.verdicts import study_of
    from rnet.report.output import FILE, write_page
    from rnet.report.pictures import pictures_of
    from rnet.report.study_page import page_of
    from rnet.report.tables import make_tables

    study = study_of(found, runs, store)
    suspects = {row["suspect"]: config for row, config in zip(found, runs.configs, strict=True)}
    pictures, no_pictures = pictures_of(
        {name: suspects[name] for name in ("finetune", "removalnet", "independent-1000") if name in suspects}, store
    )
    commands = shlex.join(["rnet", "demo", *runs.typed])
    page = page_of(
        study, make_tables(study), root, title="Does the proof of theft survive?", kind="rnet demo",
        lead=LEAD, commands=commands, pictures=pictures, no_pictures=no_pictures,
    )  # fmt: skip
    write_page(page, root / "demo")
    return root / "demo" / FILE


def _demo_row(row: dict[str, Any]) -> dict[str, Any]:
    metric = row["metrics"]["ipguard/matching_rate"]
    kept = ("suspect", "accuracy", "drop", "agreement", "seconds", "verdict", "reason", "derived")
    named = {key: row[key] for key in kept}
    named["suspect"] = "victim" if row["suspect"] == "identity" else row["suspect"]
    return {**named, "matching_rate": metric["value"], "threshold": metric["threshold"]}


def _for_suspect(name: str, overrides: Sequence[str]) -> list[str]:
    """The overrides for one suspect: of attack.*, what its attack knows; what none knows is left to be refused."""
    from rnet.attacks.registry import ATTACKS

    keys = {field.name for field in dataclasses.fields(ATTACKS.config_class(name))}
    kept = [
        line
        for line in overrides
        if not line.startswith("attack.") or name == "removalnet" or line[7:].partition("=")[0] in keys
    ]
    return [*kept, f"attack={name}", "defense=ipguard"]


def _tensorboard(root: Path) -> str:
    return f"tensorboard --logdir {root}"


def _show(rows: list[dict[str, Any]], page: Path, root: Path, seconds: float) -> None:
    table = Table(title="Does IPGuard still recognise the victim?", title_justify="left")
    table.add_column("suspect")
    for name in ("accuracy", "drop", "agreement", "matching rate"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    table.add_column("seconds", justify="right")
    for row in rows:
        shares = [f"{100 * row[key]:.1f} %" for key in ("accuracy", "drop", "agreement")]
        table.add_row(row["suspect"], *shares, f"{row['matching_rate']:.2f}", row["verdict"], f"{row['seconds']:.0f}")
    out = console()
    out.print(table)
    attacked = next(row for row in rows if row["suspect"] == "removalnet")
    out.print(
        f"RemovalNet moved the matching rate from {rows[0]['matching_rate']:.2f} to {attacked['matching_rate']:.2f} "
        f"at a cost of {100 * attacked['drop']:.1f} points of accuracy.\n"
        f"IPGuard's verdict on it: {attacked['verdict']} ({attacked['reason']}).",
        highlight=False,
    )
    out.print(f"TensorBoard: {_tensorboard(root)}", highlight=False, soft_wrap=True)
    out.print(f"Done in {seconds:.0f} s. Open this page in a browser:\n{page}", highlight=False, soft_wrap=True)
