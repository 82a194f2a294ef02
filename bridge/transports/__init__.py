"""Transports: how frames and messages travel to a client."""
