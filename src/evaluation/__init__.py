"""Detections of a labelled set against its ground truth: metrics, submissions, images of both."""
