"""Weights from and for other systems: MindYOLO, Darknet, PyTorch."""
