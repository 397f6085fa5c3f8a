"""Retraining of the last linear layers."""
