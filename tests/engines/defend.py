"""Run by each of several processes (`python -m tests.engines.defend FOLDER`): suspects of lines.json to verdicts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rnet.command.guarded import leave_at_once
from rnet.config.run import load_config
from rnet.parallel.collectives import rank
from rnet.parallel.launch import launched
from rnet.parallel.processes import process_group
from rnet.stages.store import Store
from rnet.verdicts.examine import examine


def main() -> None:
    """Writes rows.json: the row of each defence."""
    folder = Path(sys.argv[1])
    with process_group(launched(), "cpu"):
        lines = json.loads((folder / "lines.json").read_text())
        rows = {row["defense"]: row for line in lines for row in examine([load_config(line)], Store(folder / "two"))}
        if rank() == 0:
            (folder / "rows.json").write_text(json.dumps(rows))
    leave_at_once(0)


if __name__ == "__main__":
    main()
