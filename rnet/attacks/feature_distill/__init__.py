"""Distillation of the victim's features into a copy of it."""
