"""What a run is: YAML groups composed onto typed dataclasses, overridden, checked, resolved and hashed."""
