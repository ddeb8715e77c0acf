"""From the network's outputs to boxes, metrics and pictures of them."""
