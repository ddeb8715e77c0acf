"""From an image or a whole scene to detections, whatever runs the network: a checkpoint or an exported file."""
