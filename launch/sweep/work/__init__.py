"""What a task does: its cells, one after the other, each once."""
