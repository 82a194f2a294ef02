"""Role tokens: what a client shows to play or to watch, signed with the server's secret.

A token is `role.PAYLOAD.SIGNATURE`, both in base64url: {role, expires, id, once} as JSON, and the
HMAC-SHA256 of it. Who has the secret can make tokens; who has a token cannot change it. Pure: no
clocks. Cheap to import.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import math
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from worldbridge.bridge.protocol.errors import BridgeError
from worldbridge.errors import ConfigError

__all__ = ["MAX_WRONG", "OPEN", "Authenticator", "Grant", "issue", "network_of", "seconds_of"]

ROLES: Final[Mapping[str, frozenset[str]]] = {  # of a token, and what its bearer may be
    "spectator": frozenset({"spectator"}),
    "player": frozenset({"player", "spectator"}),
    "engine": frozenset({"engine", "player", "spectator"}),
}
MAX_USED: Final = 65_536  # one-time tokens that are remembered until they expire
MAX_WRONG: Final = 10  # wrong tokens of an address at once; then one per `WRONG_S`
WRONG_S: Final = 6.0
MAX_ADDRESSES: Final = 4096  # whose wrong tokens are counted
_PREFIX: Final = "role."
_PURPOSE: Final = b"worldbridge role token 1\0"  # a MAC of something else never fits
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Grant:
    """What a client may be.

    Attributes:
        roles: as `hello.role`.
        expires_s: when it ends, in seconds since 1970.
        id: of a token that may be used once, empty for others.
    """

    roles: frozenset[str] = ROLES["engine"]
    expires_s: float = math.inf
    id: str = ""


OPEN: Final = Grant()  # of a server without a secret, and of who knows the secret


def issue(secret: str, role: str, expires_s: float, once: bool = False) -> str:
    """Return a token for `role` that ends at `expires_s` (seconds since 1970)."""
    fields = {"role": role, "expires": int(expires_s), "id": secrets.token_hex(8), "once": once}
    payload = _to_text(json.dumps(fields, separators=(",", ":")).encode())
    return f"{_PREFIX}{payload}.{_to_text(_mac(secret, payload))}"


def seconds_of(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `30m`, `2h` or `7d`. Raises ConfigError."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text.strip())
    if found is None or int(found[1]) == 0:
        raise ConfigError(
            "this is no duration",
            expected="a number with s, m, h or d, such as 2h",
            got=repr(text),
            remedy="correct --expires",
        )
    return float(found[1]) * _UNITS[found[2]]


class WrongTokens:
    """Counts the wrong tokens of each address: a few at once, then one every few seconds."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, tuple[float, float]] = OrderedDict()  # how many, and when

    def check(self, address: str, now_s: float) -> None:
        """Raise BridgeError unauthorized for an address that tried too many."""
        count = self._count(address, now_s)
        if count + 1 > MAX_WRONG:
            raise _refused(
                "too many wrong tokens came from this address",
                f"at most {MAX_WRONG} wrong ones at once, then one in {WRONG_S:g} s",
                "another one, which was not looked at",
                f"Wait {math.ceil((count - MAX_WRONG + 1) * WRONG_S)} s, or use a role token.",
            )

    def add(self, address: str, now_s: float) -> None:
        """Count a wrong token."""
        self._found[network_of(address)] = (self._count(address, now_s) + 1, now_s)
        self._found.move_to_end(network_of(address))
        if len(self._found) > MAX_ADDRESSES:
            self._found.popitem(last=False)

    def _count(self, address: str, now_s: float) -> float:
        count, at_s = self._found.get(network_of(address), (0.0, now_s))
        return max(0.0, count - max(0.0, now_s - at_s) / WRONG_S)


def network_of(address: str) -> str:
    """Return what an address is counted as: an IPv6 client has 2**64 of them."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(found.ipv4_mapped or ipaddress.ip_network((found.packed, 64), strict=False))


class Authenticator:
    """Checks the token of every hello, whatever the transport it came by."""

    def __init__(self, secret: str | None, used: Mapping[str, tuple[float, str]]) -> None:
        """`used` are the one-time tokens that were used: when each expires, and its session."""
        self._secret = secret
        self.used = dict(used)
        self._wrong = WrongTokens()

    def knows(self, secret: str | None, address: str, now_s: float) -> bool:
        """Return whether this is the server's secret itself, or the server has none.

        Raises BridgeError unauthorized after too many wrong ones from this address.
        """
        if self._secret is None:
            return True
        if not secret:
            return False
        self._wrong.check(address, now_s)
        known = hmac.compare_digest(secret.encode(), self._secret.encode())
        if not known:
            self._wrong.add(address, now_s)
        return known

    def authenticate(self, token: str | None, role: str, now_s: float, address: str = "") -> Grant:
        """Return what the bearer of a token may be. Raises BridgeError unauthorized.

        Whoever has a role token is let in also from an address that tried many wrong ones.
        """
        if self._secret is None:
            return OPEN
        if token is None or not token.startswith(_PREFIX):
            if self.knows(token, address, now_s):
                return OPEN
            got = "none" if token is None else "another one"
            raise _refused("this server requires a token", "its token", got, "Ask its owner.")
        try:
            grant = _read(self._secret, token)
        except BridgeError:
            if self.knows(token, address, now_s):  # a secret may look like one
                return OPEN
            raise
        if now_s >= grant.expires_s:
            raise expired(now_s - grant.expires_s)
        if role not in grant.roles:
            allowed = " or ".join(sorted(grant.roles))
            text = "this token is for another role"
            raise _refused(text, f"the role {allowed}", role, "Ask for a token of your role.")
        return grant

    def check_unused(self, grant: Grant, session: str) -> None:
        """Raise BridgeError unauthorized if a one-time token comes again.

        `session` is the session that the client resumes, which its own token may do.
        """
        before = self.used.get(grant.id) if grant.id else None
        if before is not None and (not session or before[1] != session):
            text = "this token was used already"
            raise _refused(text, "a token's first use", "another one", "Ask for a new token.")

    def use(self, grant: Grant, session: str, now_s: float) -> bool:
        """Remember the use of a one-time token; return whether there was something to remember."""
        if not grant.id:
            return False
        self.used = {name: use for name, use in self.used.items() if use[0] > now_s}
        if len(self.used) >= MAX_USED and grant.id not in self.used:
            text = "too many one-time tokens are in use"
            raise _refused(text, f"at most {MAX_USED}", "one more", "Wait until some expire.")
        self.used[grant.id] = (grant.expires_s, session)
        return True


def _read(secret: str, token: str) -> Grant:
    """Return what a role token grants. Raises BridgeError unless it was made with the secret."""
    _, payload, signature = (*token.split(".", 2), "", "")[:3]
    given, made = _from_text(signature), _mac(secret, payload)
    if given is None or not hmac.compare_digest(given, made):
        text, expected = "this token is not valid", "a token that this server's owner made"
        raise _refused(text, expected, "a wrong signature", "Ask for a token of this server.")
    fields: dict[str, Any] = json.loads(_from_text(payload) or b"{}")
    expires = float(fields["expires"])
    name = str(fields["id"]) if fields["once"] else ""
    return Grant(ROLES.get(str(fields["role"]), frozenset()), expires, name)


def expired(ago_s: float) -> BridgeError:
    """Return the error of a token that ended `ago_s` seconds ago."""
    got = f"one that expired {ago_s:.0f} s ago"
    return _refused("this token has expired", "a token that is valid", got, "Ask for a new token.")


def _refused(text: str, expected: str, got: str, remedy: str) -> BridgeError:
    return BridgeError("unauthorized", text, expected, got, remedy, "hello.token")


def _mac(secret: str, payload: str) -> bytes:
    return hmac.new(secret.encode(), _PURPOSE + payload.encode(), hashlib.sha256).digest()


def _to_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_text(text: str) -> bytes | None:
    try:
        data = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        return None
    return data if _to_text(data) == text else None  # one way to write each token
