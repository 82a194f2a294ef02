"""Training of the network of worlds with a spatial memory."""
