"""Faults that rnet must survive or name.

`python -m tests.faults` kills, damages, fills disks and moves clocks; `python -m tests.faults.flips` flips bits.
"""
