"""Errors, files that are whole or absent, and YAML text: what everything else stands on."""
