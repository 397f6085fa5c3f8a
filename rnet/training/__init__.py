"""The one training loop, the victim's recipe, how well a model does its job, and what is shown meanwhile."""
