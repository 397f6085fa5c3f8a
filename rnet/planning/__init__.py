"""How much memory a stage will take, found out before anything is allocated."""
