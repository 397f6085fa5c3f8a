"""The identity: an exact copy of the victim, the control of every defence."""
