"""The victim with its logits divided by a temperature."""
