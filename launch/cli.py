"""The command line `rnet`: each command is a few lines; the work is in rnet/command.py and launch/demo.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from launch.options import DEFAULT_ROOT, Root
from launch.sweep.cli import sweep_app
from rnet import __version__
from rnet.command import Options, guarded, run_stage
from rnet.stages.graph import STAGE_NAMES

app = typer.Typer(
    name="rnet",
    help="Does a proof of model ownership survive an attacker who tries to remove it?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Overrides, e.g. dataset=fashion_mnist model=resnet8 attack=removalnet attack.iterations=10 seed=3.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Show the resolved configuration and stop.")]
ConfigDir = Annotated[
    Path | None, typer.Option("--config-dir", metavar="DIR", help="Your own groups, e.g. DIR/dataset/mine.yaml.")
]


def _run(action: Callable[[], None]) -> None:
    raise typer.Exit(guarded(action))


def _demo(overrides: list[str], options: Options) -> None:
    from launch.demo import run_demo

    run_demo(overrides, options)


def _register(name: str, summary: str, action: Callable[[list[str], Options], None]) -> None:
    def command(
        overrides: Overrides = None,
        root: Root = DEFAULT_ROOT,
        as_json: AsJson = False,
        print_config: PrintConfig = False,
        config_dir: ConfigDir = None,
    ) -> None:
        options = Options(root=root, as_json=as_json, print_config=print_config, config_dir=config_dir)
        _run(lambda: action(overrides or [], options))

    app.command(name, help=summary)(command)


_SUMMARIES = {
    "train": "Train a victim (or import one: model.weights=FILE).",
    "attack": "Attack a victim: attack=removalnet, finetune, independent, identity (several: attack=a,b).",
    "fingerprint": "Extract a victim's fingerprint: defense=ipguard.",
    "verify": "Test suspects for ownership: attack=finetune,removalnet defense=ipguard negatives=3.",
}
for _stage in STAGE_NAMES:
    _register(_stage, _SUMMARIES[_stage], partial(run_stage, _stage))
_register("demo", "The main job: a victim, RemovalNet, fine-tuning, three negatives, and IPGuard on each.", _demo)

app.add_typer(sweep_app, name="sweep")


@app.command("bench")
def bench(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT",
            help="What to measure: attack (rounds=5 profile=10), fingerprint (rounds=5), kernels, or scaling "
            "(processes=1,2,4 engine=ddp,zero3 step=attack,train).",
        ),
    ],
    overrides: Overrides = None,
    root: Root = DEFAULT_ROOT,
    as_json: AsJson = False,
    config_dir: ConfigDir = None,
) -> None:
    """Measure on this machine, as ratios within one run: rnet's way against the straightforward one, and scaling."""
    from launch.benchmark import run_bench

    _run(lambda: run_bench(subject, overrides or [], Options(root=root, as_json=as_json, config_dir=config_dir)))


@app.command("version")
def version() -> None:
    """Show rnet's version."""
    typer.echo(__version__)


def main() -> None:
    """The console command."""
    app()


if __name__ == "__main__":
    main()
