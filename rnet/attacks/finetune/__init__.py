"""Fine-tuning on the victim's labels."""
