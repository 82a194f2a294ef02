"""Python client of worldbridge: `connect` to play, `profile` to measure."""

from worldbridge.engine_plugins.python.client import Client, ReceivedFrame, connect
from worldbridge.engine_plugins.python.faults import ConnectError, Interruption
from worldbridge.engine_plugins.python.profile import ProfileResult, profile

__all__ = [
    "Client",
    "ConnectError",
    "Interruption",
    "ProfileResult",
    "ReceivedFrame",
    "connect",
    "profile",
]
