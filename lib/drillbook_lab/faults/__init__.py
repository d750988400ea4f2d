"""What goes wrong in life, done for real and undone again."""
