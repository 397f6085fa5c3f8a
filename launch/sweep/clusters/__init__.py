"""Where cells run: one interface (base.py), and Slurm, MPI and this machine behind it."""
