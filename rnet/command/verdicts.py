"""What `rnet verify` shows: verdicts on a terminal, the tables of a paper as text, files or JSON, or a page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from rnet.command.run import Options, Runs, console, show_json

if TYPE_CHECKING:
    from rnet.report.page import Page
    from rnet.report.records import Study
    from rnet.report.table import Table as PaperTable
    from rnet.stages.store import Store

Row = dict[str, Any]
Axes = dict[str, Any]


def verify(runs: Runs, store: Store, options: Options) -> None:
    """Examines the suspects of the runs, and shows what was asked for; one process of several shows it."""
    from rnet.data.files.digest import looked_at_once
    from rnet.parallel.collectives import rank
    from rnet.report.formats import check_format, flat
    from rnet.report.output import shown as output
    from rnet.report.tables import asked_for, make_tables
    from rnet.verdicts.examine import examine

    kind = options.format or "markdown"
    names = asked_for(options.tables, kind, options.out)
    check_format(kind, names, options.out)
    with looked_at_once(store.root, keep=rank() == 0):
        rows = examine(runs.configs, store, [chosen["attack"] for chosen in runs.chosen])
        if rank() > 0:
            return
        study = study_of(rows, runs, store)
    if options.as_json:
        show_json({"rows": rows, "tables": {table.name: flat(table) for table in make_tables(study, options.tables)}})
    elif options.out is not None or options.tables or options.format:
        print(output(study, names, kind, options.out, lambda made: page(rows, study, made, runs, store)), end="")  # noqa: T201
    else:
        several = len({config.seed for config in runs.configs}) > 1
        names = [
            f"{row['suspect']} seed={config.seed}" if several else row["suspect"]
            for row, config in zip(rows, runs.configs, strict=True)
        ]
        shown = [{**row, "suspect": name} for row, name in zip(rows, names, strict=True)]
        show_verdicts(shown, make_tables(study, ["separation"])[0].lines)


def page(
    rows: Sequence[Row], study: Study, tables: Sequence[PaperTable], runs: Runs, store: Store
) -> Page:  # fmt: skip
    """The page of these suspects, with pictures of the first ones."""
    from rnet.report.pictures import pictures_of
    from rnet.report.study_page import page_of

    suspects = {
        str(one["attack"]): config
        for one, config in zip(_axes(rows, runs), runs.configs, strict=True)
        if config.attack.name != "identity"
    }
    pictures, no_pictures = pictures_of(suspects, store)
    victims = dict.fromkeys(f"{chosen['dataset']}, {chosen['model']}" for chosen in runs.chosen)
    return page_of(
        study, tables, store.root, title=f"Is it a copy? {'; '.join(victims)}", kind="rnet report of suspects",
        commands=shlex.join(["rnet", "report", *runs.typed]), pictures=pictures, no_pictures=no_pictures,
    )  # fmt: skip


def _axes(rows: Sequence[Row], runs: Runs) -> list[Axes]:
    """What tells the runs apart, by the names that the user chose; a given suspect goes by its own name."""
    from rnet.attacks.imported.config import ImportConfig

    seeds = {config.attack.seed for config in runs.configs if config.attack.seed != config.seed}
    found = []
    for row, config, chosen in zip(rows, runs.configs, runs.chosen, strict=True):
        given = isinstance(config.attack, ImportConfig)
        axes = {name: chosen[name] for name in ("dataset", "model")}
        axes["attack"] = row["suspect"] if given else chosen["attack"]
        if seeds:
            axes["attack.seed"] = config.attack.seed
        found.append({**axes, "defense": chosen["defense"], "seed": config.seed})
    return found


def study_of(rows: Sequence[Row], runs: Runs, store: Store) -> Study:
    """The study that tables are made from; rows: what examine returned."""
    from rnet.config.documents import as_dict
    from rnet.defenses.registry import DEFENSES
    from rnet.report.judged import (
        defender_axes,
        is_baseline,
        negative_model,
        scores_of,
        thresholds_of,
    )  # fmt: skip
    from rnet.report.records import NegativeModel, Study, Threshold, Trial
    from rnet.stages.graph import negative_configs
    from rnet.stages.store import read_result
    from rnet.storage.json_files import read_information
    from rnet.verdicts.examine import document_id

    def left_by(stage: str, name: str | None) -> Mapping[str, Any]:
        return (read_result(store.root / stage / name) or {}) if name else {}

    def status_of(name: str | None) -> Mapping[str, Any]:
        return read_information(store.root / "attack" / name / "status.json") if name else {}

    trials: list[Trial] = []
    negatives: dict[Any, list[NegativeModel]] = {}
    thresholds: dict[Any, list[Threshold]] = {}
    for row, config, own in zip(rows, runs.configs, _axes(rows, runs), strict=True):
        scores = scores_of(row["metrics"])
        name = row["attack_id"]
        judged = row["negatives"] or {}
        trials.append(
            Trial(
                axes=own, kind=config.attack.name, baseline=is_baseline(config.attack.name),
                settings=as_dict(config.attack),
                victim_id=document_id("train", config, store), suspect_id=name or row["suspect"],
                test_id=row["verify_id"] or f"{name or row['suspect']} {row['defense']}",
                result=left_by("attack", name), status=status_of(name),
                suspect_state="" if name else f"refused: {row['reason']}",
                state="" if row["verify_id"] else f"refused: {row['reason']}", scores=scores, verdict=row["verdict"],
                reason=row["reason"], votes=row["voted"],
                combined=row["combined"], left_out=row["left_out"], negatives=judged.get("counted", 0),
                negatives_planned=config.negatives,
            )
        )  # fmt: skip
        if not row["verify_id"]:
            continue
        key = (document_id("fingerprint", config, store), config.seed)
        if key in negatives:
            continue
        scope = defender_axes(own)
        negatives[key] = []
        for negative in negative_configs(config):
            ids = (document_id("attack", negative, store), document_id("verify", negative, store))
            results = (left_by("attack", ids[0]), left_by("verify", ids[1]))
            unfit = judged.get("unfit", {})
            negatives[key].append(
                negative_model(
                    scope, ids, vars(negative.attack), results, state="",
                    left_out=judged["why_left_out"] if ids[0] in unfit else "",
                )
            )  # fmt: skip
        defense = DEFENSES.build(config.defense)
        calibration = {name.removeprefix(f"{defense.name}/"): found for name, found in row["calibration"].items()}
        thresholds[key] = thresholds_of(scope, defense, calibration, config.false_positive_rate, judged)
    return Study(
        trials=trials,
        negatives=[one for found in negatives.values() for one in found],
        thresholds=[one for found in thresholds.values() for one in found],
    )


def show_verdicts(rows: Sequence[Row], separated: Sequence[Mapping[str, Any]] = ()) -> None:
    """Scores and verdicts of suspects as a table with a line per metric, how well metrics separate, then the reasons.

    separated: the lines of the table separation.
    """
    table = Table(title_justify="left", title="Ownership tests")
    for name in ("suspect", "accuracy", "drop", "metric", "score", "threshold", "normalised", "verdict"):
        table.add_column(name, justify="left" if name in ("suspect", "metric", "verdict") else "right")
    for row in rows:
        about = [
            row["suspect"],
            *("" if row[key] is None else f"{100 * row[key]:.1f} %" for key in ("accuracy", "drop")),
        ]
        if not row["metrics"]:
            table.add_row(*about, row["defense"], "", "", "", "refused")
        for number, (name, metric) in enumerate(row["metrics"].items()):
            values = (metric[key] for key in ("value", "threshold", "normalised"))
            value, threshold, normalised = ("" if value is None else f"{value:.4g}" for value in values)
            shown = about if number == 0 else ["", "", ""]
            table.add_row(*shown, name, value, threshold or "none", normalised, metric["verdict"])
    console().print(table)
    if known := [line for line in separated if line.get("auc") is not None]:
        console().print(_separation_table(known))
    reasons: dict[tuple[str, str, str], set[str]] = {}
    notes: dict[str, set[str]] = {}
    for row in rows:
        reasons.setdefault((row["suspect"], row["verdict"], row["reason"]), set()).add(row["defense"])
        if (combined := row["combined"]) and len(combined["metrics"]) > 1:
            reasons.setdefault((row["suspect"], combined["verdict"], combined["reason"]), set()).add("all together")
    for (suspect, verdict, reason), defenses in sorted(reasons.items()):
        print(f"{suspect}, {', '.join(sorted(defenses))}: {verdict}, {reason}")  # noqa: T201
    for row in rows:
        for said in filter(None, ((row["negatives"] or {}).get(key) for key in ("why_left_out", "warning"))):
            notes.setdefault(said, set()).add(row["defense"])
        for promise in (metric.get("promise") for metric in row["metrics"].values()):
            if promise:
                notes.setdefault(promise, set()).add(row["defense"])
    for said, defenses in notes.items():
        print(f"{', '.join(sorted(defenses))}: {said}")  # noqa: T201
    for row in rows:
        for why in dict.fromkeys(row["left_out"].values()):
            names = ", ".join(name for name, reason in row["left_out"].items() if reason == why)
            print(f"{row['suspect']}, left out {names}: {why}")  # noqa: T201


def _separation_table(separated: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title_justify="left", title="Derived against independent, with bootstrap 95 % intervals")
    for name in ("attack", "metric", "ROC AUC", "interval", "TPR at 5 % FPR", "ARUC", "models"):
        table.add_column(name, justify="left" if name in ("attack", "metric") else "right")
    for line in separated:
        interval = f"{line['auc_low']:.3f} to {line['auc_high']:.3f}"
        models = f"{line['positives']} + {line['negatives']}"
        aruc = "" if line["aruc"] is None else f"{line['aruc']:.3f}"
        shown = (f"{line['auc']:.3f}", interval, f"{line['tpr_at_5']:.2f}", aruc, models)
        table.add_row(line["attack"], line["metric"], *shown)
    return table
