"""What a sweep is: its file, its cells and rows, what they need."""
