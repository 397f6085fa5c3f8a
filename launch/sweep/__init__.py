"""Sweeps: a file that names axes becomes a graph of stages, computed once each on Slurm, MPI or this machine."""
