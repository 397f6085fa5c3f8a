"""Figures: one file each, from plain lines to a matplotlib figure that says what it does not show."""
