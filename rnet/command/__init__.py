"""What commands do, and the command line of those that need no launcher."""
