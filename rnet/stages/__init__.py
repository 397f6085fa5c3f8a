"""The four stages, what each is computed from, and the store where their results are kept."""
