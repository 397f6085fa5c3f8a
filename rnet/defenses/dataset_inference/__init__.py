"""Dataset Inference (Maini et al., ICLR 2021)."""
