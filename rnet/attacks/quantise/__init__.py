"""Post-training quantisation of the victim's weights."""
