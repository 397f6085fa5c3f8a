"""Fine-tuning on the victim's labelled training images."""
