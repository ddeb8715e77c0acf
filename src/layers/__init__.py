"""Pieces of networks: normalisation, regularisation, box overlaps, anchors and activations."""
