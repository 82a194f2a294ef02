"""What the settings say of bit rates, sockets and ICE servers, in the terms of the transports."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import time
from collections.abc import Sequence
from typing import Final

from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.media.rate import BitrateLimits
from worldbridge.bridge.protocol import IceServer
from worldbridge.bridge.transports.aiortc_internals import IceBinding
from worldbridge.bridge.transports.webrtc import RtcSettings

TURN_USER: Final = "worldbridge"


def bitrate_limits(config: GatewayConfig) -> BitrateLimits:
    """Return the limits of a video stream."""
    start = min(max(config.start_bitrate, config.min_bitrate), config.bitrate)
    return BitrateLimits(start, min(config.min_bitrate, config.bitrate), config.bitrate)


def ice_binding(config: GatewayConfig) -> IceBinding:
    """Return where WebRTC's sockets are: on the address that the server listens on."""
    host = "127.0.0.1" if config.host == "localhost" else config.host
    try:
        every = ipaddress.ip_address(host).is_unspecified
        addresses = () if every else (host,)
    except ValueError:  # a name
        addresses = ()
    return IceBinding(addresses, config.udp_port_range(), config.public_address)


def ice_servers(config: GatewayConfig, now_s: float | None = None) -> Sequence[IceServer]:
    """Return the STUN and TURN servers for one client, with credentials that expire.

    A TURN server with a shared secret takes `expiry:user` as the name and its HMAC-SHA1 as the
    password (draft-uberti-behave-turn-rest-00, coturn's `use-auth-secret`).
    """
    expiry = int((time.time() if now_s is None else now_s) + config.turn_ttl_s)
    servers = []
    for url in config.ice_servers:
        if url.startswith("stun:") or config.turn_secret is None:
            servers.append(IceServer((url,)))
        else:
            name = f"{expiry}:{TURN_USER}"
            digest = hmac.digest(config.turn_secret.encode(), name.encode(), hashlib.sha1)
            servers.append(IceServer((url,), name, base64.b64encode(digest).decode()))
    return tuple(servers)


def rtc_settings(config: GatewayConfig) -> RtcSettings:
    """Return what all WebRTC connections of a server have in common."""
    own = config.public_address is None  # behind a known NAT nobody needs to ask for it
    return RtcSettings(
        bitrate_limits(config),
        ice_binding(config),
        lambda: ice_servers(config) if own else (),
        any(not url.startswith("stun:") for url in config.ice_servers),
    )
