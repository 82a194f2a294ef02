"""Worlds: the contract and its implementations."""
