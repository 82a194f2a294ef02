"""ZeroMQ between gateway and clients: how a message lies in parts, sockets, and their keys.

A message of a client is one part. A message of the gateway is one part too, but for a frame: its
map, the image, and the depth if the map has a `depth_scale`. ZeroMQ delivers all parts or none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq
import zmq.auth
from zmq.utils import z85

from worldbridge.bridge.protocol import (
    CLIENT_LIMITS,
    MAX_CLIENT_MESSAGE,
    MAX_PAYLOAD,
    Buffer,
    Codec,
    Frame,
    ProtocolError,
    ServerMessage,
    decode_server,
    encode,
    i420_bytes,
)
from worldbridge.errors import ConfigError

__all__ = [
    "KeyPair",
    "accepted_keys",
    "client_options",
    "from_parts",
    "list_keys",
    "load_keys",
    "load_public_key",
    "make_keys",
    "server_options",
    "to_parts",
]

ZAP_DOMAIN: Final = "worldbridge"
SERVER: Final = "server"  # the name of the key pair that a gateway has
PUBLIC_SUFFIX: Final = ".key"
SECRET_SUFFIX: Final = ".key_secret"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_KEEPALIVE_S: Final = 3
_UNACKNOWLEDGED_MS: Final = 10_000
_HANDSHAKE_MS: Final = 5_000
_LINGER_MS: Final = 200
_MAX_QUEUED: Final = 64  # messages of one connection at a client
_MAX_UNSENT: Final = 16  # the same at the gateway: frames of a client that grants and reads nothing
_MAX_RECEIVED: Final = 64  # seldom reached: see the heartbeats below

# --- messages ---------------------------------------------------------------------------------


def to_parts(message: ServerMessage) -> list[Buffer]:
    """Return the parts of a message of the gateway."""
    if not isinstance(message, Frame) or message.image is None:
        return [encode(message)]
    payload = [part for part in (message.image, message.depth) if part is not None]
    return [encode(message.replace(image=None, depth=None)), *payload]


def from_parts(parts: Sequence[Buffer]) -> ServerMessage:
    """Return the message of these parts. Raises ProtocolError for any that are not one."""
    if not parts:
        raise _malformed("a first part", "none")
    message = decode_server(parts[0])
    if not isinstance(message, Frame) or message.codec is None or message.image is not None:
        if len(parts) > 1:
            raise _malformed("one part", f"{len(parts)}")
        return message
    sizes = _sizes(message)
    if len(parts) - 1 != len(sizes):
        raise _malformed(f"{1 + len(sizes)} parts", f"{len(parts)}")
    for part, size in zip(parts[1:], sizes, strict=True):
        if size not in (None, len(part)) or len(part) > MAX_PAYLOAD:
            raise _malformed(f"{size or f'at most {MAX_PAYLOAD}'} bytes", f"{len(part)} bytes")
    depth = bytes(parts[2]) if len(parts) == 3 else None
    return message.replace(image=bytes(parts[1]), depth=depth)


def _sizes(frame: Frame) -> list[int | None]:
    """Return the size of each part after the first, None for one of any size."""
    width, height = frame.header.width, frame.header.height
    raw: dict[Codec, int] = {
        "rgb": width * height * 3,
        "bgra": width * height * 4,
        "i420": i420_bytes(width, height),
    }
    image = raw.get(frame.codec) if frame.codec is not None else None
    return [image] if frame.depth_scale is None else [image, width * height * 2]


def _malformed(expected: str, got: str) -> ProtocolError:
    return ProtocolError(
        "bad_message",
        "the parts of the message do not fit together",
        expected,
        got,
        "Send a message as docs/zeromq.md describes it.",
    )


# --- keys -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, each key 40 characters of Z85. `secret` is None where it is not known."""

    name: str
    public: bytes
    secret: bytes | None


def make_keys(folder: Path, name: str) -> KeyPair:
    """Write a new key pair to `folder`: NAME.key, and NAME.key_secret for its owner alone.

    Raises ConfigError for a name that is no file name, or one that exists.
    """
    if not _NAME.fullmatch(name):
        expected = "letters, digits, - and _, at most 64"
        raise ConfigError(
            f"{name!r} cannot name a key", expected=expected, got=name, remedy="choose another name"
        )
    taken = [p for s in (PUBLIC_SUFFIX, SECRET_SUFFIX) if (p := folder / (name + s)).exists()]
    if taken:
        remedy = "choose another name, or remove the files: connections with them then end"
        raise ConfigError(
            "these keys exist", expected="a new name", got=str(taken[0]), remedy=remedy
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mask = os.umask(0o077)
    try:
        zmq.auth.create_certificates(folder, name)
    finally:
        os.umask(mask)
    return load_keys(folder / (name + SECRET_SUFFIX))


def load_keys(path: Path) -> KeyPair:
    """Return the key pair of a NAME.key_secret file. Raises ConfigError."""
    pair = _load(path)
    if pair.secret is None:
        remedy = f"name the file that ends with {SECRET_SUFFIX}"
        raise ConfigError(
            "there is no secret key", expected="a key pair", got=str(path), remedy=remedy
        )
    return pair


def load_public_key(key: str | Path) -> bytes:
    """Return a public key, given as itself or as the file that holds it. Raises ConfigError."""
    if isinstance(key, str) and len(key) == 40 and not Path(key).exists():
        try:
            z85.decode(key)
            return key.encode()
        except (ValueError, KeyError, UnicodeEncodeError):
            pass
    return _load(Path(key)).public


def list_keys(folder: Path) -> list[KeyPair]:
    """Return the key pairs of a folder, by name. Raises ConfigError for a damaged file."""
    pairs = []
    for path in sorted(folder.glob(f"*{PUBLIC_SUFFIX}")):
        secret = path.with_suffix(SECRET_SUFFIX)
        pairs.append(_load(secret if secret.exists() else path))
    return pairs


def accepted_keys(folder: Path) -> dict[bytes, str]:
    """Return the public keys of the clients that may connect, with their names."""
    return {pair.public: pair.name for pair in list_keys(folder) if pair.name != SERVER}


def _load(path: Path) -> KeyPair:
    try:
        public, secret = zmq.auth.load_certificate(path)
        for key in (public, secret):
            if key is not None and len(z85.decode(key)) != 32:
                raise ValueError("a key of another length")
    except (OSError, ValueError, KeyError) as error:
        remedy = "make a pair with worldbridge keys make NAME"
        raise ConfigError(
            f"cannot read the key {path}", expected="a CURVE key", got=str(error), remedy=remedy
        ) from error
    return KeyPair(path.name.split(".")[0], public, secret)


# --- sockets ----------------------------------------------------------------------------------


def server_options(keys: KeyPair) -> dict[int, int | bytes]:
    """Return the options of the gateway's ROUTER, which takes CURVE alone."""
    assert keys.secret is not None
    return {
        **_COMMON,
        zmq.ROUTER_MANDATORY: 1,  # what cannot be delivered is an error, not lost
        zmq.ROUTER_HANDOVER: 1,  # chosen identities are refused: nobody plays under one
        zmq.SNDHWM: _MAX_UNSENT,
        zmq.RCVHWM: _MAX_RECEIVED,
        zmq.MAXMSGSIZE: max(CLIENT_LIMITS.values()) + MAX_CLIENT_MESSAGE,
        zmq.CURVE_SERVER: 1,
        zmq.CURVE_SECRETKEY: keys.secret,
        zmq.CURVE_PUBLICKEY: keys.public,
        zmq.ZAP_DOMAIN: ZAP_DOMAIN.encode(),
    }


def client_options(keys: KeyPair | None, server: bytes | None) -> dict[int, int | bytes]:
    """Return the options of a client's DEALER. It connects once; who lost it makes a new one."""
    options: dict[int, int | bytes] = {
        **_COMMON,
        zmq.RECONNECT_IVL: -1,
        zmq.IPV6: 1,
        zmq.SNDHWM: _MAX_QUEUED,
        zmq.RCVHWM: _MAX_QUEUED,
        zmq.MAXMSGSIZE: MAX_PAYLOAD,
    }
    if keys is not None and server is not None:
        assert keys.secret is not None
        options |= {zmq.CURVE_PUBLICKEY: keys.public, zmq.CURVE_SECRETKEY: keys.secret}
        options |= {zmq.CURVE_SERVERKEY: server}
    return options


_COMMON: Final[dict[int, int | bytes]] = {
    zmq.LINGER: _LINGER_MS,
    zmq.HANDSHAKE_IVL: _HANDSHAKE_MS,
    # No ZMTP heartbeats: libzmq 4.3.5 aborts the process when one is due on a connection that ended
    # while its queue was full. Our own pings find the dead; TCP removes what is left of them.
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: _KEEPALIVE_S,
    zmq.TCP_KEEPALIVE_INTVL: _KEEPALIVE_S,
    zmq.TCP_KEEPALIVE_CNT: 2,
    zmq.TCP_MAXRT: _UNACKNOWLEDGED_MS,
}
