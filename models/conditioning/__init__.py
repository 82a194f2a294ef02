"""Conditioning: what a model receives besides its own tokens."""
