"""Which web pages may talk to us: the Host and Origin headers against an allow-list.

A page of any site can make a browser connect to a server on its visitor's machine, and a domain
whose address changes to 127.0.0.1 (DNS rebinding) even makes it same-origin. So the name that the
browser used has to be one of ours. Addresses are no names: they cannot be rebound.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from worldbridge.bridge.protocol import BridgeError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS = frozenset({"0.0.0.0", "::"})


@dataclass(frozen=True, slots=True)
class OriginGuard:
    """`host` is what the server listens on; `hosts` are more names that it is known by;
    `origins` are `scheme://host[:port]` of foreign pages that may connect, or `*`."""

    host: str
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    _names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        names = LOOPBACK_NAMES | {self.host.lower()} | {name.lower() for name in self.hosts}
        object.__setattr__(self, "_names", names - _WILDCARDS)

    def check(self, host: str | None, origin: str | None) -> None:
        """Raise BridgeError forbidden_origin. Without an Origin it is not a browser."""
        name = _host_name(host or "")
        if not self._is_ours(name):
            raise BridgeError(
                "forbidden_origin",
                "this server is not known by that name",
                "a Host header of " + ", ".join(sorted(self._names)),
                repr(host)[:120],
                "Use one of these names, or start the server with --host.",
            )
        if origin is None or "*" in self.origins or origin.lower() in self._allowed():
            return
        if _split(origin) == (host or "").lower():
            return
        raise BridgeError(
            "forbidden_origin",
            "pages of that origin may not connect",
            "a page of this server, or of an allowed origin",
            repr(origin)[:120],
            "Start the server with --allow-origin for pages of other servers.",
        )

    def _allowed(self) -> tuple[str, ...]:
        return tuple(origin.lower().rstrip("/") for origin in self.origins)

    def _is_ours(self, name: str | None) -> bool:
        if not name:
            return False
        return name in self._names or (self.host in _WILDCARDS and _is_address(name))


def _host_name(host: str) -> str | None:
    """Return the lower-case name in a Host header, without port; None if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        if parts.username is not None or parts.path or parts.query or parts.fragment:
            return None
        _ = parts.port  # raises on a port that is no number
        return parts.hostname
    except ValueError:
        return None


def _split(origin: str) -> str | None:
    """`host[:port]` of an http(s) origin."""
    scheme, separator, rest = origin.lower().partition("://")
    return rest if separator and scheme in ("http", "https") else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
