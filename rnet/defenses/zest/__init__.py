"""ZEST (Jia et al., ICLR 2022)."""
