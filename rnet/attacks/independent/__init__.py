"""Independently trained models: the innocent ones, by which verdicts are calibrated."""
