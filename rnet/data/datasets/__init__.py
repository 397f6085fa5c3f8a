"""One file per named dataset: a loader, or a list of its image files with their labels, which needs no torch."""
