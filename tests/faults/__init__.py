"""Faults that rnet must survive or name: `python -m tests.faults.flips 2000` flips bits in a finished store."""
