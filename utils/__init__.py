"""Tools run by hand, before and after training: each starts the module of its name in src/commands."""
