"""Which web pages may talk to us: the Host and Origin headers against an allow-list.

A page of any site can make a browser connect to a server on its visitor's machine, and a domain
whose address changes to 127.0.0.1 (DNS rebinding) even makes it same-origin. So the name that the
browser used has to be one of ours. Addresses are no names: they cannot be rebound.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from dataclasses import dataclass, field
from typing import Final

from worldbridge.bridge.protocol import BridgeError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
log = logging.getLogger(__name__)

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?")
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
        address = _address(host or "")
        if address is None or not self._is_ours(address[0]):
            name = "NAME" if address is None else address[0]
            error = BridgeError(
                "forbidden_origin",
                "this server is not known by that name",
                "a Host header of " + ", ".join(sorted(self._names)),
                _shown(host or ""),
                f"Use one of these names, or start the server with --allow-host {name}.",
            )
            log.warning("refused: %s", error)
            raise error
        if origin is None or "*" in self.origins or origin.lower() in self._allowed():
            return
        # a proxy may add or drop the port that the scheme implies
        scheme, separator, rest = origin.lower().partition("://")
        port = _DEFAULT_PORTS.get(scheme) if separator else None
        theirs = _address(rest)
        if port and theirs and (theirs[0], theirs[1] or port) == (address[0], address[1] or port):
            return
        remedy = f"Start the server with --allow-origin {_shown(origin)} if its pages may connect."
        error = BridgeError(
            "forbidden_origin",
            "pages of that origin may not connect",
            "a page of this server, or of an allowed origin",
            f"a page of {_shown(origin)} for the host {_shown(host or '')}",
            remedy,
        )
        log.warning("refused: %s", error)
        raise error

    def _allowed(self) -> tuple[str, ...]:
        return tuple(origin.lower().rstrip("/") for origin in self.origins)

    def _is_ours(self, name: str) -> bool:
        return name in self._names or (self.host in _WILDCARDS and _is_address(name))


def _address(text: str) -> tuple[str, str] | None:
    """Return the lower-case name and the port, "" if there is none; None if it is malformed."""
    found = _HOST.fullmatch(text.lower())
    return None if found is None else (found[1].strip("[]"), found[2] or "")


def _shown(header: str) -> str:
    return repr(header[:120])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
