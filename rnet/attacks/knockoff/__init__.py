"""Knockoff Nets: model stealing with a budget of questions."""
