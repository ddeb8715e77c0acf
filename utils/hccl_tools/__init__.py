"""Rank tables of Ascend servers: made, merged, and read by the start script, by modules of src/commands."""
