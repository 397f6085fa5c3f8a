"""Several processes as one run: who they are, how they meet, what they exchange, how failures end them all."""
