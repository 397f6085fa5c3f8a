"""SAC (Guan et al., NeurIPS 2022)."""
