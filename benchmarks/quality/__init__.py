"""Evaluation of the quality of worlds."""
