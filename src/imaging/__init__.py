"""Images: reading, drawing, rasters and tiles."""
