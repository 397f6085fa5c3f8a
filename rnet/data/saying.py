"""What the user should know of the images, said once however many processes share a run."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


def say(message: str) -> None:
    """Warns, from the first process only."""
    from rnet.parallel.collectives import rank  # torch, which readers of files do without

    if rank() == 0:
        logger.warning("%s", message)
