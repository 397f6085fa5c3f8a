"""ModelDiff (Li et al., ISSTA 2021)."""
