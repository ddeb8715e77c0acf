"""Learning: the training step, the run around it, and what guards it."""
