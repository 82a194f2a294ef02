"""World checkpoints on disk."""
