"""Magnitude pruning with fine-tuning."""
