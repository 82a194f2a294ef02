"""Tell passing faults of a connection from final ones, and report what a lost connection cost."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import Final

import websockets

from worldbridge.bridge.protocol import BridgeError, known_code
from worldbridge.errors import StructuredError

__all__ = ["ConnectError", "Interruption", "final_fault"]

# A proxy answers these while the server behind it restarts or is overloaded.
_PASSING_HTTP: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class ConnectError(StructuredError):
    """What answers at the address is not a worldbridge server. Another attempt cannot help."""

    code = "not_a_server"


@dataclass(frozen=True, slots=True)
class Interruption:
    """What a lost connection, or a lost worker, cost. Complete once frames came again.

    Attributes:
        reason: why frames stopped.
        seconds: from the loss to the first frame after it.
        same_world: whether the session's world was continued; otherwise it began again.
        frames_missed: frames of the continued world that never came.
        frames_rewound: frames by which the continued world went back, to its last saved session.
        inputs_unanswered: states sent before the loss that no received frame had answered.
    """

    reason: str
    seconds: float
    same_world: bool
    frames_missed: int
    frames_rewound: int
    inputs_unanswered: int


def final_fault(url: str, error: Exception) -> StructuredError | None:
    """Return the error to raise for a failed connection, or None if another attempt can succeed."""
    if isinstance(error, ssl.SSLError):
        return _tls_fault(url, error)
    if isinstance(error, websockets.InvalidStatus):
        return _http_fault(url, error)
    if isinstance(error, websockets.InvalidHandshake):
        # The server ended in the middle of its answer: it restarts.
        if isinstance(error.__cause__, EOFError | OSError):
            return None
        return ConnectError(
            "the answer is not a WebSocket's",
            expected=f"a worldbridge server at {url}",
            got=str(error),
            remedy="Use the address of the server's ready line, with https:// if it speaks TLS.",
        )
    return None


def _tls_fault(url: str, error: ssl.SSLError) -> ConnectError | None:
    # The peer closed the connection during the handshake: a proxy that restarts does.
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectError(
            "the server's certificate is not valid here",
            expected="a certificate for this host name that this machine trusts",
            got=error.verify_message,
            remedy="Use the host name of the certificate, or add its authority (SSL_CERT_FILE).",
        )
    return ConnectError(
        "the server does not speak TLS on this port",
        expected=f"TLS, because of the address {url}",
        got=error.reason or str(error),
        remedy="Use http:// (or ws://) for a server without a TLS proxy.",
    )


def _http_fault(url: str, error: websockets.InvalidStatus) -> StructuredError | None:
    response = error.response
    if response.status_code in _PASSING_HTTP:
        return None
    try:
        fields = json.loads(response.body or b"")
        texts = [str(fields.get(key, "")) for key in ("message", "expected", "got", "remedy")]
        if texts[0]:
            return BridgeError(known_code(str(fields.get("code", ""))), *texts)
    except (ValueError, AttributeError):
        pass  # an answer of another program
    return ConnectError(
        "the server answered with a page instead of a WebSocket",
        expected=f"a worldbridge server at {url}",
        got=f"HTTP {response.status_code} {response.reason_phrase}",
        remedy="Check host, port and path; a proxy has to pass WebSockets on to the server.",
    )
