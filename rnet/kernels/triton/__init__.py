"""The Triton kernels behind the ops of the folder above, under the same names; imported on first use on CUDA."""
