"""IPGuard (Cao et al., AsiaCCS 2021)."""
