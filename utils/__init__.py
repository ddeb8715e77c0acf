"""Tools run by hand, before and after training."""
