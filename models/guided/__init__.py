"""The network of worlds with a spatial memory: it draws only what the memory has not seen."""
