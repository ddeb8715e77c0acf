"""From a trained network to a file that runs elsewhere, and to detections in images and whole scenes."""
