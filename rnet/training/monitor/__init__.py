"""Watching a run: TensorBoard, a log of JSON lines, and progress on the terminal."""

from rnet.training.monitor.monitor import Monitor, NullMonitor

__all__ = ["Monitor", "NullMonitor"]
