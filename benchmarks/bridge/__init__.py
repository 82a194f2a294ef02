"""The bridge's own latency: from a frame handed over to its last packet, and to the screen."""
