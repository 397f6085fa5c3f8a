"""Single stages without a launcher: `python -m rnet train|attack|fingerprint|verify [overrides]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rnet.command import Options, guarded, run_stage
from rnet.stages.graph import STAGE_NAMES


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, runs the stage and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rnet", description="Runs one stage; missing parents are built.")
    parser.add_argument("stage", choices=STAGE_NAMES)
    parser.add_argument("overrides", nargs="*", help="e.g. dataset=digits model=resnet8 attack=removalnet seed=3")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="the store (default: runs)")
    parser.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    parser.add_argument("--print-config", action="store_true", help="show the resolved configuration and stop")
    parser.add_argument("--config-dir", type=Path, help="a folder with your own groups, e.g. dataset/mine.yaml")
    given = parser.parse_intermixed_args(arguments)
    options = Options(root=given.root, as_json=given.json, print_config=given.print_config, config_dir=given.config_dir)
    return guarded(lambda: run_stage(given.stage, given.overrides, options))


if __name__ == "__main__":
    sys.exit(main())
