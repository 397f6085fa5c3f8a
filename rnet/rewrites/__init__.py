"""The same function, executed otherwise: folded, recomputed, in another memory format, over a global batch."""
