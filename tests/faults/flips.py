"""Single flipped bits in the files of a finished store: `python -m tests.faults.flips [COUNT] [SEED]`.

After each flip everything is read that commands read of a finished store: verdicts, results, states, weights and
fingerprints. Either all of it is as before, or rnet says what is damaged. Anything else is silent.
"""

from __future__ import annotations

import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from rnet.defenses.fingerprint_file import ABOUT, TENSORS, load_fingerprint
from rnet.errors import UserError
from rnet.stages import stages
from rnet.stages.keeping import finished
from rnet.stages.models import load_model
from rnet.stages.store import Store, read_result
from rnet.storage.manifest import check_file, read_manifest
from rnet.verdicts.examine import examine
from tests.tiny_runs import TINY_IPGUARD, tiny

CONFIG = tiny("attack=identity", "negatives=2", *TINY_IPGUARD)
UNREAD = ("events.out", "log.jsonl", "lock")
"""Curves and their like, from which no number of a result is taken."""


def make(root: Path) -> None:
    """A store with every kind of stage."""
    examine([CONFIG], Store(root))


def seen(root: Path) -> list[Any]:
    """All that can be read of the store. Raises UserError for what is damaged."""
    store = Store(root)
    found: list[Any] = [examine([CONFIG], store)]
    victim, suspect = stages.train(CONFIG, store), stages.attack(CONFIG, store)
    for folder in (victim, suspect):
        found.append({name: tensor.tolist() for name, tensor in load_model(CONFIG, folder).state_dict().items()})
    marked = stages.fingerprint(CONFIG, store)
    files = read_manifest(marked.path)
    for name in (TENSORS, ABOUT):
        check_file(marked.path, name, files)
    fingerprint = load_fingerprint(marked.path, victim_id=victim.id)
    found += [{name: tensor.tolist() for name, tensor in fingerprint.tensors.items()}, fingerprint.metadata]
    for path in finished(root):
        found.append(read_result(path))
    found += [folder.status() for folder in (victim, suspect, marked, stages.verify(CONFIG, store))]
    return found


def campaign(root: Path, count: int, seed: int = 0) -> Counter[str]:
    """How many flips changed nothing, were named by an error, set a file of information aside, or passed in silence."""
    before, draw = seen(root), random.Random(seed)
    outcomes: Counter[str] = Counter()
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith(UNREAD)]
    for number in range(count):
        path = files[number % len(files)]
        kept = path.read_bytes()
        if not kept:
            continue
        place = draw.randrange(8 * len(kept))
        changed = bytearray(kept)
        changed[place // 8] ^= 1 << (place % 8)
        path.write_bytes(changed)
        outcome = _outcome(root, before)
        outcomes[outcome] += 1
        if outcome in ("silent", "traceback"):
            print(f"{outcome}: bit {place} of {path}")  # noqa: T201
        path.with_name(f"{path.name}.damaged").unlink(missing_ok=True)
        path.write_bytes(kept)
    return outcomes


def _outcome(root: Path, before: list[Any]) -> str:
    warned = _Warned()
    logging.getLogger("rnet").addHandler(warned)
    try:
        after = seen(root)
    except UserError:
        return "named"
    except Exception:  # whatever it is, it is what must not happen
        return "traceback"
    finally:
        logging.getLogger("rnet").removeHandler(warned)
    return "same" if after == before else "set aside" if warned.messages else "silent"


class _Warned(logging.Handler):
    """What rnet has warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the message."""
        self.messages.append(record.getMessage())


def main(arguments: list[str]) -> None:
    """Prints the table."""
    count, seed = [int(text) for text in (arguments + ["2000", "0"][len(arguments) :])]
    root = Path(tempfile.mkdtemp())
    try:
        make(root)
        for outcome, number in sorted(campaign(root, count, seed).items()):
            print(f"{outcome:>10} {number}")  # noqa: T201
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main(sys.argv[1:])
