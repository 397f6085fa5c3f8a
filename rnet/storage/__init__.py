"""Files and checkpoints: written whole or not at all, and resumable."""
