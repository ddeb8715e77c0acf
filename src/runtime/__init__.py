"""The machine and the job. Nothing is imported here: signals must be handled before any thread."""
