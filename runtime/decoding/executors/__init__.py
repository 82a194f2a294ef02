"""Executors: how a decode step is computed on a device."""
