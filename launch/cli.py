"""The command line `rnet`: what `python -m rnet` has, and the demo, sweeps and benchmarks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from launch.sweep.cli import sweep_app
from rnet.command.app import add_command, make_app, run
from rnet.command.options import DEFAULT_ROOT, AsJson, ConfigDir, Overrides, Root
from rnet.command.run import Options
from rnet.errors import UserError


def _sweeps(root: Path) -> dict[str, set[str]]:
    """The cells of the store's sweeps; none, with a word, where a plan is of another version."""
    from launch.sweep.clean import labels_by_sweep

    try:
        return labels_by_sweep(root)
    except UserError as error:
        logging.getLogger(__name__).warning("sizes are not shown by sweep: %s", error)
        return {}


app = make_app(completion=True, users=_sweeps)


def _demo(overrides: list[str], options: Options) -> None:
    if overrides[:1] == ["imagenet"]:
        from launch.imagenet import run_imagenet

        run_imagenet(overrides[1:], options)
        return
    from launch.demo import run_demo

    run_demo(overrides, options)


add_command(
    app,
    "demo",
    "The main job: a victim, RemovalNet, fine-tuning, three negatives, and IPGuard on each. `rnet demo imagenet`: a "
    "network trained on ImageNet, photographs, RemovalNet, IPGuard and ZEST.",
    _demo,
)
app.add_typer(sweep_app, name="sweep")


@app.command("bench")
def bench(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT",
            help="What to measure: attack (rounds=5 profile=10), data (images=1200 rounds=3), "
            "fingerprint (rounds=5), kernels, memory (stage=train,attack model=resnet18,vit_tiny), scaling "
            "(processes=1,2,4 engine=ddp,zero3 step=attack,train), or all but the last two, on usual networks.",
        ),
    ],
    overrides: Overrides = None,
    root: Root = DEFAULT_ROOT,
    as_json: AsJson = False,
    config_dir: ConfigDir = None,
) -> None:
    """Measure on this machine, as ratios within one run: rnet's way against the straightforward one, and scaling."""
    from launch.benchmark import ALL, run_bench
    from launch.benchmark_all import run_all

    options = Options(root=root, as_json=as_json, config_dir=config_dir)
    run(lambda: run_all(overrides or [], options) if subject == ALL else run_bench(subject, overrides or [], options))


def main() -> None:
    """The console command."""
    app()


if __name__ == "__main__":
    main()
