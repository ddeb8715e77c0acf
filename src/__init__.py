"""YOLOv4 for remote sensing on MindSpore: everything that the entry points call."""
