"""Label agreement on clean images: the plainest baseline."""
