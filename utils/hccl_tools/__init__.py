"""Rank tables of Ascend servers: made, merged, and read by the start script."""
