"""What a gateway is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Raises ValueError for a value out of its range.

    `endpoint` is the ZeroMQ address that the worker connects to. With `listen_fd` the gateway
    serves on a listening socket that it inherited, otherwise it binds `host`:`port` (0: a free
    port). Once it listens it writes one line of JSON {host, port, url} to `ready_fd`.
    """

    endpoint: str
    host: str = "127.0.0.1"
    port: int = 8080
    listen_fd: int | None = None
    ready_fd: int | None = None
    token: str | None = None
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    seats: int | None = None  # None: as many as the worker has
    theme: str | None = None  # for players who ask for none
    seed: int | None = None
    pictures: tuple[str, ...] = ()  # files that a world begins with, for players who ask for none
    log_level: str = "info"
    jpeg_quality: int = 85
    bitrate: int = 6_000_000  # bits per second, the most that a video stream takes
    max_clients: int = 256
    hello_s: float = 5.0
    silence_s: float = 4.0
    stall_s: float = 2.0  # how long a client may leave our bytes unread
    grace_s: float = 30.0  # how long the seat of a vanished player is kept
    worker_grace_s: float = 120.0  # how long clients wait for a lost worker

    def __post_init__(self) -> None:
        _check(bool(self.endpoint), "endpoint", "a ZeroMQ address", self.endpoint)
        _check(bool(self.host), "host", "an address of this machine", self.host)
        _check(0 <= self.port <= 65535, "port", "0 to 65535", self.port)
        _check(self.seats is None or self.seats >= 1, "seats", "at least 1", self.seats)
        for picture in self.pictures:
            _check(Path(picture).is_file(), "pictures", "files", picture)
        # clients cannot send a longer one
        _check(self.token is None or 0 < len(self.token) <= 256, "token", "1 to 256 characters", "")
        _check(self.log_level in LOG_LEVELS, "log_level", " or ".join(LOG_LEVELS), self.log_level)
        _check(1 <= self.jpeg_quality <= 100, "jpeg_quality", "1 to 100", self.jpeg_quality)
        _check(self.bitrate >= 100_000, "bitrate", "at least 100000", self.bitrate)
        _check(self.max_clients >= 1, "max_clients", "at least 1", self.max_clients)
        for name in ("hello_s", "silence_s", "stall_s", "grace_s", "worker_grace_s"):
            value: float = getattr(self, name)
            _check(0 < value < 86_400, name, "a positive number of seconds", value)


def _check(valid: bool, name: str, expected: str, got: object) -> None:
    if not valid:
        raise ValueError(f"{name} is out of its range: expected {expected}, got {got!r}")
