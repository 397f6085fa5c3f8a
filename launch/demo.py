"""The main job on the embedded default, end to end: a victim, its suspects, IPGuard on each, a table and a picture."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from rnet.command.run import Options, console, require_one_process, show_json
from rnet.storage.files import make_folder

SUSPECTS = ("identity", "finetune", "removalnet")


def run_demo(overrides: Sequence[str], options: Options) -> None:
    """Computes what is missing, then shows one row per suspect; with --json {"rows": [...], ...} on standard output."""
    from rnet.config.documents import run_to_dict, to_yaml
    from rnet.config.run import load_config
    from rnet.report.plots import plot_suspects
    from rnet.stages.graph import negative_configs
    from rnet.stages.stages import train
    from rnet.stages.store import Store
    from rnet.verdicts.examine import check, examine

    require_one_process("rnet demo")
    started = time.monotonic()
    store = Store(options.root)
    base = ["negatives=3", *overrides]
    configs = [load_config(_for_suspect(name, base), config_dir=options.config_dir) for name in SUSPECTS]
    if options.print_config:
        show_json(run_to_dict(configs[-1])) if options.as_json else sys.stdout.write(to_yaml(run_to_dict(configs[-1])))
        return
    check(configs, store)
    victim = train(configs[0], store)
    rows = [_demo_row(row) for row in examine([*configs, *negative_configs(configs[0])], store)]
    rows[0]["seconds"] = victim.status().get("seconds", 0.0)
    thresholds = [row["threshold"] for row in rows if row["suspect"] == "removalnet"]
    picture = options.root / "demo" / "matching_rate.png"
    make_folder(picture.parent)
    title = f"{configs[0].dataset.name}: does IPGuard still recognise the victim?"
    plot_suspects(rows, thresholds[0], picture, score="matching_rate", title=title)
    if options.as_json:
        show_json(
            {"rows": rows, "picture": str(picture), "victim": victim.id, "tensorboard": _tensorboard(options.root)}
        )
        return
    _show(rows, picture, options.root, time.monotonic() - started)


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


def _show(rows: list[dict[str, Any]], picture: Path, root: Path, seconds: float) -> None:
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
    out.print(f"Picture:     {picture}", highlight=False, soft_wrap=True)
    out.print(f"TensorBoard: {_tensorboard(root)}", highlight=False, soft_wrap=True)
    out.print(f"Done in {seconds:.0f} s.", highlight=False)
