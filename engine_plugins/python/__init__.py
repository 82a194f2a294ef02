"""Python client of worldbridge: `connect` to play, `profile` to measure."""

from worldbridge.engine_plugins.python.client import Client, Connection, ReceivedFrame, connect
from worldbridge.engine_plugins.python.faults import ConnectError, Interruption
from worldbridge.engine_plugins.python.player import Player
from worldbridge.engine_plugins.python.profile import ProfileResult, profile

__all__ = [
    "Client",
    "ConnectError",
    "Connection",
    "Interruption",
    "Player",
    "ProfileResult",
    "ReceivedFrame",
    "connect",
    "profile",
]
