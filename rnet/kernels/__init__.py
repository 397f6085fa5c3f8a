"""Fused operations: each is one public op with a torch reference (any device) and a Triton kernel (CUDA)."""
