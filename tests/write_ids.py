"""Writes the pinned ids anew, for a change of a stage's results that is meant: `python -m tests.write_ids`."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

from rnet.config.documents import content_id
from rnet.config.run import load_config
from rnet.stages.graph import document
from tests.config.test_ids import IDS as OPTIONS
from tests.config.test_ids import configuration, look_at
from tests.stages.test_graph import IDS as DEFAULTS


def main() -> None:
    """Options and defaults that are listed keep their places; add a new one to its file first, with any value."""
    here = Path(__file__).parent
    with patch("rnet.stages.graph.look_at", look_at):
        options = {text: content_id(document("verify", configuration(text))) for text in OPTIONS}
    defaults = {text: content_id(document(text.split()[0], load_config([text.split()[1]]))) for text in DEFAULTS}
    for folder, found in (("config", options), ("stages", defaults)):
        (here / folder / "ids.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
