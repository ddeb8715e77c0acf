"""What a run tells a person: a table of its epochs, and one page of curves, metrics and images."""
