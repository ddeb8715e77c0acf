"""From the network's outputs to boxes, metrics and images of them."""
