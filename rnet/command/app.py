"""The commands that need no launcher: `python -m rnet train ...`; `rnet` has them too, and more (launch/cli.py)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from rnet import __version__
from rnet.command import plan as planning
from rnet.command import store as keeping
from rnet.command.guarded import guarded, leave_at_once
from rnet.command.options import (
    DEFAULT_OUT,
    DEFAULT_ROOT,
    AsJson,
    ConfigDir,
    FormatOrNone,
    Out,
    Overrides,
    PrintConfig,
    Root,
    Tables,
    import_from_here,
)
from rnet.command.run import Options, run_import, run_stage
from rnet.command.verdicts import verify as show_verify

STAGES = {
    "train": "Train a victim (or import one: model.weights=FILE).",
    "attack": "Attack a victim: attack=removalnet, finetune, independent, identity (several: attack=a,b).",
    "fingerprint": "Extract a victim's fingerprint: defense=ipguard.",
}
VERIFY = (
    "Test suspects for ownership: attack=finetune,removalnet defense=ipguard negatives=3 seed=0,1; your own: "
    "suspects=FOLDER, attack=import attack.weights=FILE, attack=import attack.function=package.module:function."
)
Kind = Annotated[str, typer.Argument(metavar="KIND", help="attacks, defenses, datasets, substitutes, models, engines.")]
Targets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]... | STAGE/ID",
        help="Suspects, as for rnet verify: attack=finetune,removalnet defense=ipguard negatives=3; or one stage.",
    ),
]
Weights = Annotated[str, typer.Argument(metavar="FILE", help="Weights: safetensors, or what torch.save wrote.")]
Keys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY|GROUP=OPTION]...",
        help="What to explain: attack=removalnet, several groups, or a key such as attack.rho. Nothing: everything.",
    ),
]


def make_app(*, completion: bool, users: keeping.Users | None = None) -> typer.Typer:
    """The stages, list and explain, to which commands may be added. completion: offer it to the user's shell.

    users: who refers to stages of a store, for `rnet store size`.
    """
    app = typer.Typer(
        name="rnet",
        add_completion=completion,
        help="Does a proof of model ownership survive an attacker who tries to remove it?",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_start)
    for stage, summary in STAGES.items():
        add_command(app, stage, summary, partial(run_stage, stage))
    app.command("verify", help=VERIFY)(verify)
    app.command("report")(report)
    app.command("import")(import_victim)
    app.command("list")(list_components)
    app.command("explain")(explain_keys)
    app.command("status")(show_status)
    app.add_typer(_store_app(users), name="store")
    app.add_typer(_plan_app(), name="plan")
    return app


def _plan_app() -> typer.Typer:
    """What is found out before anything is allocated."""
    plan = typer.Typer(
        help="Before anything is allocated: how much memory a run will take.", no_args_is_help=True,
        rich_markup_mode=None,
    )  # fmt: skip

    @plan.callback()
    def all_of() -> None:
        """A group, although it has one command."""

    @plan.command("memory")
    def memory(
        overrides: Overrides = None, fit: planning.Fitting = None, as_json: AsJson = False, config_dir: ConfigDir = None
    ) -> None:
        """Show what each process will hold, by stage: stage=train,attack processes=8 and any other KEY=VALUE."""
        run(lambda: planning.plan_memory(overrides or [], fit, Options(as_json=as_json, config_dir=config_dir)))

    return plan


def _store_app(users: keeping.Users | None) -> typer.Typer:
    """The commands on a whole store."""
    store = typer.Typer(
        help="A whole store: check it, measure it, clear it, sign stages and carry them elsewhere.",
        no_args_is_help=True, rich_markup_mode=None,
    )  # fmt: skip

    @store.command("verify")
    def verify(
        root: Root = DEFAULT_ROOT, fix: keeping.Fix = False, recompute: keeping.Recompute = False,
        seal: keeping.Seal = False, signed_by: keeping.SignedBy = None, as_json: AsJson = False,
    ) -> None:  # fmt: skip
        """Check every file of every finished stage against its manifest."""
        run(lambda: keeping.verify(root, fix=fix, seal=seal, recompute=recompute, signed_by=signed_by, as_json=as_json))

    @store.command("size")
    def size(root: Root = DEFAULT_ROOT, as_json: AsJson = False) -> None:
        """Show how many stages there are, what they take on the disk and how old they are, also by sweep."""
        run(lambda: keeping.show_size(root, as_json=as_json, users=users))

    @store.command("gc")
    def gc(
        root: Root = DEFAULT_ROOT, unfinished: keeping.Unfinished = False, dry_run: keeping.DryRun = False,
        as_json: AsJson = False,
    ) -> None:  # fmt: skip
        """Remove what killed processes left, and the quarantine."""
        run(lambda: keeping.collect(root, unfinished=unfinished, dry=dry_run, as_json=as_json))

    @store.command("export")
    def export(
        file: keeping.Archive, labels: keeping.Labels = None, root: Root = DEFAULT_ROOT, as_json: AsJson = False
    ) -> None:
        """Write finished stages with their manifests to a tar file."""
        run(lambda: keeping.export(root, file, labels or [], as_json=as_json))

    @store.command("import")
    def import_stages(
        file: keeping.Archive, root: Root = DEFAULT_ROOT, signed_by: keeping.SignedBy = None, as_json: AsJson = False
    ) -> None:
        """Take the stages of such a file, after checking each."""
        run(lambda: keeping.import_(root, file, signed_by=signed_by, as_json=as_json))

    @store.command("keygen")
    def keygen(file: keeping.NewKey) -> None:
        """Make a pair of keys, to sign and to check with."""
        run(lambda: keeping.make_keys(file))

    @store.command("sign")
    def sign(
        key: keeping.SigningKey, labels: keeping.Labels = None, root: Root = DEFAULT_ROOT, as_json: AsJson = False
    ) -> None:
        """Sign finished stages, in a file beside each manifest."""
        run(lambda: keeping.sign(root, labels or [], key, as_json=as_json))

    return store


def run(action: Callable[[], None]) -> None:
    """Ends the process with the status of the action."""
    status = guarded(action)
    leave_at_once(status)
    raise typer.Exit(status)


def add_command(app: typer.Typer, name: str, summary: str, action: Callable[[list[str], Options], None]) -> None:
    """Adds a command that takes overrides and the options of a stage."""

    def command(
        overrides: Overrides = None,
        root: Root = DEFAULT_ROOT,
        as_json: AsJson = False,
        print_config: PrintConfig = False,
        config_dir: ConfigDir = None,
    ) -> None:
        options = Options(root=root, as_json=as_json, print_config=print_config, config_dir=config_dir)
        run(lambda: action(overrides or [], options))

    app.command(name, help=summary)(command)


def verify(
    overrides: Overrides = None,
    root: Root = DEFAULT_ROOT,
    tables: Tables = None,
    kind: FormatOrNone = None,
    out: Out = None,
    as_json: AsJson = False,
    print_config: PrintConfig = False,
    config_dir: ConfigDir = None,
) -> None:
    """Test suspects for ownership, and show verdicts or tables."""
    options = Options(
        root=root, as_json=as_json, print_config=print_config, config_dir=config_dir, tables=tuple(tables or ()),
        format=kind, out=out,
    )  # fmt: skip
    run(lambda: run_stage("verify", overrides or [], options, show_verify))


def report(
    targets: Targets = None,
    root: Root = DEFAULT_ROOT,
    tables: Tables = None,
    kind: FormatOrNone = None,
    out: Out = None,
    config_dir: ConfigDir = None,
) -> None:
    """Write report.html: verdict, figures, tables and how to reproduce them, of suspects or of one stage."""
    from rnet.command.report import report as show_report

    kind = kind or "html"
    options = Options(
        root=root, config_dir=config_dir, tables=tuple(tables or ()), format=kind,
        out=out or (DEFAULT_OUT if kind == "html" else None),
    )  # fmt: skip
    run(lambda: show_report(targets or [], options))


def import_victim(
    file: Weights,
    overrides: Overrides = None,
    root: Root = DEFAULT_ROOT,
    as_json: AsJson = False,
    print_config: PrintConfig = False,
    config_dir: ConfigDir = None,
) -> None:
    """Import a victim from a file of weights, say what it was taken for, and check it on your images."""
    options = Options(root=root, as_json=as_json, print_config=print_config, config_dir=config_dir)
    run(lambda: run_import(file, overrides or [], options))


def list_components(kind: Kind, as_json: AsJson = False, config_dir: ConfigDir = None) -> None:
    """List what can be chosen, in one line each, and where it comes from."""
    from rnet.command.describe import show_list

    run(lambda: show_list(kind, Options(as_json=as_json, config_dir=config_dir)))


def explain_keys(keys: Keys = None, as_json: AsJson = False, config_dir: ConfigDir = None) -> None:
    """Explain keys: type, value with the presets of what is chosen, and meaning."""
    from rnet.command.describe import show_keys

    run(lambda: show_keys(keys or [], Options(as_json=as_json, config_dir=config_dir)))


def show_status(labels: keeping.Labels = None, root: Root = DEFAULT_ROOT, as_json: AsJson = False) -> None:
    """Show stages that run, failed or were cut off, with their last numbers; all of the store, or those named."""
    from rnet.command import status

    run(lambda: status.show_status(root, labels or [], as_json=as_json))


def _start(
    version: Annotated[
        bool, typer.Option("--version", help="Show rnet's version and exit.", callback=lambda wanted: _show(wanted))
    ] = False,
) -> None:
    import_from_here()


def _show(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit
