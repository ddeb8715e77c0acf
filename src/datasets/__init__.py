"""DOTA's own formats: label files, scenes cut into tiles, and Task 2 submissions."""
