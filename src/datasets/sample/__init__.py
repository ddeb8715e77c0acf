"""A small generator of aerial scenes in DOTA's format, so that the whole road runs without a download."""
