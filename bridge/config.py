"""Settings of a gateway. Cheap to import."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worldbridge.errors import ConfigError
from worldbridge.settings import (
    DEFAULT_ENDPOINT,
    LOG_FORMAT_HELP,
    MAX_PROMPT_FRAMES,
    MAX_SEATS,
    TOKEN_VARIABLE,
    TURN_SECRET_VARIABLE,
    check,
    check_endpoint,
    check_fields,
    setting,
)
from worldbridge.stderr import LogFormat

__all__ = ["GatewayConfig", "is_loopback", "load_certificate"]

MAX_QUEUE = 256  # each one may have prompt frames of 8 MiB ready
MAX_SEED = 2**53 - 1  # the largest integer that a JavaScript client can hold


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Raises ConfigError, a ValueError, for a value out of its range.

    `endpoint` is the ZeroMQ address that the worker connects to. With `listen_fd` the gateway
    serves on a listening socket that it inherited, otherwise it binds `host`:`port`. Once it
    listens it writes one line of JSON {host, port, url} to `ready_fd`. `seats` None: as many as the
    worker has. `stall_s`: how long a client may leave our bytes unread; `grace_s`: how long the
    seat of a vanished player is kept; `worker_grace_s`: how long clients wait for a lost worker.
    """

    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 for every network.", low=1)
    port: int = setting(8080, "Port to listen on; 0 takes a free one.", low=0, high=65535)
    seats: int | None = setting(None, low=1, high=MAX_SEATS)
    queue: int = setting(
        16, "Players who may wait for a seat; 0: nobody waits.", low=0, high=MAX_QUEUE
    )
    seats_per_address: int | None = setting(
        None,
        "Players of one address at once, those in the queue included.  [default: no limit]",
        low=1,
    )
    spectators: int | None = setting(
        None, "Spectators that may watch at once; 0: nobody watches.  [default: no limit]", low=0
    )
    idle_limit: float | None = setting(
        None,
        "Seconds after which a player who does nothing loses the seat, with a warning before.",
        low=1,
        high=86_400,
    )
    token: str | None = setting(
        None,
        "Secret that clients must present.",
        env=TOKEN_VARIABLE,
        low=1,
        high=256,  # clients cannot send a longer one
    )
    allow_anonymous: Literal["off", "on"] = setting(
        "off",
        "Serve other machines without a token: anyone who reaches --host can play. Without this, "
        "such a server does not start.",
    )
    allow_origins: tuple[str, ...] = setting(
        (),
        "Web origin, such as https://example.org, whose pages may connect; repeatable.",
        option="allow_origin",
    )
    allow_hosts: tuple[str, ...] = setting(
        (),
        "Host name by which clients reach the server, besides localhost and --host; repeatable.",
        option="allow_host",
    )
    zmq_port: int | None = setting(
        None, "Port for clients by ZeroMQ; 0 takes a free one.  [default: none]", low=0, high=65535
    )
    zmq_host: str = setting("127.0.0.1", "Address to listen on for ZeroMQ clients.", low=1)
    zmq_keys: str | None = setting(
        None,
        "Folder of `worldbridge keys`: ZeroMQ clients then need a key of it. Required if "
        "--zmq-host is not of this machine.",
        low=1,
    )
    whip: Literal["off", "on"] = setting(
        "off", "Start sessions from the image of a camera that sends by WHIP."
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        "Address of a reverse proxy whose X-Forwarded-For names the client, and X-Forwarded-Host "
        "the host; repeatable.",
        option="trusted_proxy",
    )
    theme: str | None = setting(None, "Theme of players who choose none.")
    seed: int | None = setting(
        None, "Seed of players who choose none.  [default: random]", low=0, high=MAX_SEED
    )
    prompt_frames: tuple[str, ...] = setting(
        (),
        "Image file that sessions start from whose players bring none; repeatable up to "
        f"{MAX_PROMPT_FRAMES} times, oldest first.",
        option="prompt_frame",
        high=MAX_PROMPT_FRAMES,
    )
    tls_cert: str | None = setting(
        None,
        "Certificate file (PEM, with its chain): the server then speaks https. It is read again "
        "when it changes.",
        low=1,
    )
    tls_key: str | None = setting(None, "The certificate's private key file (PEM).", low=1)
    state_dir: str | None = setting(
        None,
        "Folder where the players' sessions are kept, to go on after the whole server was started "
        "again.  [default: none; a process that is replaced finds them in any case]",
        low=1,
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "How much to log on stderr."
    )
    log_format: LogFormat = setting("text", LOG_FORMAT_HELP)
    bitrate: int = setting(
        6_000_000, "Bits per second of a video stream, at most.", low=100_000, high=1_000_000_000
    )
    min_bitrate: int = setting(
        150_000,
        "Bits per second that a video stream takes also where the network carries less.",
        low=10_000,
    )
    start_bitrate: int = setting(
        2_000_000, "Bits per second before anything is known of the network.", low=10_000
    )
    public_address: str | None = setting(
        None,
        "Address that clients reach WebRTC at, if it is not this machine's: behind a NAT or in a "
        "container.",
        low=1,
    )
    udp_ports: str | None = setting(
        None, "UDP ports for WebRTC, such as 40000-40100.  [default: any]", low=1
    )
    ice_servers: tuple[str, ...] = setting(
        (),
        "STUN or TURN server for clients behind NATs, such as stun:stun.example.org:3478 or "
        "turn:turn.example.org:3478; repeatable.",
        option="ice_server",
        high=8,
    )
    turn_secret: str | None = setting(
        None,
        "Secret shared with the TURN servers, from which each client gets credentials that expire.",
        env=TURN_SECRET_VARIABLE,
        low=1,
        high=256,
    )
    endpoint: str = setting(DEFAULT_ENDPOINT, low=1)
    listen_fd: int | None = setting(None, low=0)
    ready_fd: int | None = setting(None, low=0)
    jpeg_quality: int = setting(85, low=1, high=100)
    turn_ttl_s: float = setting(3_600.0, low=60, high=604_800)  # of a client's credentials
    max_clients: int = setting(256, low=1)
    hello_s: float = setting(5.0, low=0.001, high=86_400)
    away_s: float = setting(1.75, low=0.001, high=86_400)  # a tick more is 2 s
    silence_s: float = setting(4.0, low=0.001, high=86_400)
    stall_s: float = setting(2.0, low=0.001, high=86_400)
    grace_s: float = setting(30.0, low=0.001, high=86_400)
    worker_grace_s: float = setting(120.0, low=0.001, high=86_400)

    def __post_init__(self) -> None:
        check_fields(self)
        secret, expected = self.token or "", "no white space at its ends"
        check(secret == secret.strip(), "token", expected, "*" * len(secret))
        check_endpoint(self.endpoint)
        self._check_exposure()
        if self.zmq_keys is None:
            expected = "an address of this machine alone, or zmq_keys: without keys anyone can read"
            check(is_loopback(self.zmq_host), "zmq_host", expected, self.zmq_host)
        else:
            _check_keys(Path(self.zmq_keys))
        check(
            (self.tls_cert is None) == (self.tls_key is None),
            "tls_cert",
            "--tls-cert and --tls-key together",
            self.tls_cert or self.tls_key,
        )
        for origin in self.allow_origins:
            _check_origin(origin)
        for name in self.allow_hosts:
            expected = "a host name without scheme and port"
            check(not set(name) & set("/:@ "), "allow_host", expected, name)
        for address in self.trusted_proxies:
            expected = "an IPv4 or IPv6 address"
            check(_is_address(address), "trusted_proxy", expected, address)
        self._check_ice()

    def _check_exposure(self) -> None:
        if self.token is None and self.allow_anonymous == "off" and not is_loopback(self.host):
            raise ConfigError(
                "anyone who reaches this address could play",
                expected="a token for an address that other machines reach",
                got=f"--host {self.host} without a token",
                remedy="add --token auto; or --allow-anonymous on, if anyone may play",
            )

    def _check_ice(self) -> None:
        self.udp_port_range()
        for url in self.ice_servers:
            _check_ice_server(url)
        if self.public_address is not None:
            expected = "an IPv4 or IPv6 address"
            check(_is_address(self.public_address), "public_address", expected, self.public_address)

    def udp_port_range(self) -> tuple[int, int]:
        """Return the first and the last UDP port for WebRTC; (0, 0): any. Raises ConfigError."""
        if self.udp_ports is None:
            return 0, 0
        first, _, last = self.udp_ports.partition("-")
        expected = "two ports of 1 to 65535, such as 40000-40100"
        check(first.isdecimal() and last.isdecimal(), "udp_ports", expected, self.udp_ports)
        check(1 <= int(first) <= int(last) <= 65535, "udp_ports", expected, self.udp_ports)
        return int(first), int(last)


def _check_keys(folder: Path) -> None:
    secret = folder / "server.key_secret"
    if not secret.is_file():
        raise ConfigError(
            "zmq_keys holds no keys of the server",
            expected=f"a file {secret}",
            got="none",
            remedy=f"worldbridge keys make server --folder {folder}",
        )


def is_loopback(host: str) -> bool:
    """Return whether an address or name to listen on is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_certificate(config: GatewayConfig, context: ssl.SSLContext | None = None) -> None:
    """Read the certificate and its key, into a TLS context if there is one. Raises ConfigError."""
    if config.tls_cert is None or config.tls_key is None:
        return
    context = context or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key, password="")  # never asks for one
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise ConfigError(
            "the certificate cannot be used",
            expected="a PEM certificate and its private key without a password",
            got=f"{config.tls_cert} and {config.tls_key}: {error}",
            remedy="correct --tls-cert and --tls-key",
        ) from error


def _check_origin(origin: str) -> None:
    scheme, separator, rest = origin.partition("://")
    url = scheme in ("http", "https") and separator and rest and "/" not in rest
    expected = "* or scheme://host[:port] without a path"
    check(origin == "*" or bool(url), "allow_origin", expected, origin)


def _check_ice_server(url: str) -> None:
    """Raise ConfigError unless this is a URL as RFC 7064 (STUN) and RFC 7065 (TURN) have it."""
    match = re.fullmatch(r"(stun|turn|turns):([^?\s/@]+)(\?transport=(udp|tcp))?", url)
    expected = "stun:host[:port] or turn:host[:port][?transport=udp or tcp] or turns:..."
    check(match is not None and not (match[1] == "stun" and match[3]), "ice_server", expected, url)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
