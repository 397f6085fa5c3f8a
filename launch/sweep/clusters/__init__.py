"""Where cells run: one interface, and Slurm, MPI and this machine behind it."""
