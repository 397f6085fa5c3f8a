"""Changes of the weights that leave the function alone: channels permuted, channels rescaled."""
