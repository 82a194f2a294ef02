"""Python client of worldbridge: `connect` to play, `profile` to measure."""

from .client import Client, ReceivedFrame, connect
from .profile import ProfileResult, profile

__all__ = ["Client", "ProfileResult", "ReceivedFrame", "connect", "profile"]
