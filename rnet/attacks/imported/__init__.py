"""Suspects that are given: a file of weights, or a function that answers."""
