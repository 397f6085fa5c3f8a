"""Adversarial training of a copy."""
