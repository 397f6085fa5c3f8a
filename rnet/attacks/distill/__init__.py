"""Knowledge distillation of the victim into an untrained network."""
