"""RemovalNet (Yao et al., IEEE TDSC 2023): the method and nothing else."""
