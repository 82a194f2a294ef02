"""SDP of standard clients: keep the one video section of an offer and reject the others in order.

Text in, text out: no sockets, no aiortc. A section begins at its `m=` line (RFC 8866).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from worldbridge.bridge.protocol import BridgeError

__all__ = ["OneVideo", "video_codecs"]

MAX_SECTIONS: Final = 16
# Attributes of a bundle's transport: only its first section has to carry them (RFC 9143).
_TRANSPORT: Final = (
    "a=ice-ufrag:",
    "a=ice-pwd:",
    "a=ice-options:",
    "a=fingerprint:",
    "a=setup:",
    "a=rtcp-mux",
)
_CANDIDATES: Final = ("a=candidate:", "a=end-of-candidates")
_DIRECTIONS: Final = ("a=sendrecv", "a=recvonly", "a=sendonly", "a=inactive")


@dataclass(frozen=True, slots=True)
class OneVideo:
    """An offer reduced to its first video section, and what its answer needs again.

    Attributes:
        offer: the reduced offer.
        rejected: the answer's lines for every section of the offer, None for the video.
        carrier: the first section of the video's bundle, if it is another one. Rejecting it would
            end the bundle (RFC 9143), so it is answered as inactive.
    """

    offer: str
    rejected: tuple[tuple[str, ...] | None, ...]
    carrier: int | None = None

    @classmethod
    def of(cls, sdp: str, direction: Literal["recvonly", "sendonly"]) -> OneVideo:
        """Reduce an offer. `direction` is what the offer's video has to be at least.

        Raises:
            BridgeError: it is no SDP, or has no such video section.
        """
        session, sections = _split(sdp)
        chosen = next((i for i, lines in enumerate(sections) if _takes(lines, direction)), None)
        if chosen is None:
            kinds = ", ".join(lines[0].split()[0][2:] for lines in sections)[:200] or "no section"
            raise BridgeError(
                "bad_message",
                "the WebRTC offer has no video section that fits",
                f"a video section that is {direction} or sendrecv",
                kinds,
                f"Add a video transceiver with the direction `{direction}`.",
            )
        video = _completed(sections[chosen], sections[0])
        video = [f"a={direction}" if line in _DIRECTIONS else line for line in video]
        mid = _mid(video)
        kept = [line for line in session if not line.startswith("a=group:")]
        kept += [f"a=group:BUNDLE {mid}"] if mid is not None else []
        rejected = tuple(
            None if i == chosen else _rejection(lines) for i, lines in enumerate(sections)
        )
        return cls(_join([*kept, *video]), rejected, _carrier(session, sections, chosen))

    def answer(self, sdp: str) -> str:
        """Return the answer to the whole offer, given the answer to the reduced one."""
        session, sections = _split(sdp)
        assert len(sections) == 1, "the reduced offer has one section"
        lines = list(session)
        for index, rejection in enumerate(self.rejected):
            if rejection is None:
                lines += sections[0]
            elif index == self.carrier:
                lines += [rejection[0].replace(" 0 ", " 9 ", 1), *rejection[1:]]
                shared = (*_TRANSPORT, *_CANDIDATES)
                lines += [line for line in sections[0] if line.startswith(shared)]
            else:
                lines += rejection
        if self.carrier is not None:
            mid = _mid(self.rejected[self.carrier] or ())
            lines = [line.replace("BUNDLE", f"BUNDLE {mid}", 1) for line in lines]
        return _join(lines)


def video_codecs(sdp: str) -> tuple[str, ...]:
    """Return the names of the video codecs of an offer, lower case, in their order."""
    names = [
        line.split(" ", 1)[1].split("/")[0].lower()
        for lines in _split(sdp)[1]
        if lines[0].startswith("m=video ")
        for line in lines
        if line.startswith("a=rtpmap:") and " " in line
    ]
    return tuple(dict.fromkeys(names))


def _split(sdp: str) -> tuple[list[str], list[list[str]]]:
    """Return the session's lines, and the lines of each section. Raises BridgeError."""
    session: list[str] = []
    sections: list[list[str]] = []
    for line in sdp.splitlines():
        if line.startswith("m="):
            sections.append([])
        (sections[-1] if sections else session).append(line)
    fields = [len(lines[0].split()) for lines in sections]
    if not sdp.startswith("v=0") or len(sections) > MAX_SECTIONS or any(n < 4 for n in fields):
        raise BridgeError(
            "bad_message",
            "this is not an SDP offer",
            f"text that begins with v=0 and has at most {MAX_SECTIONS} sections",
            repr(sdp[:60]),
            "Send the `sdp` of the local description as the body.",
        )
    return session, sections


def _takes(lines: Sequence[str], direction: str) -> bool:
    if not lines[0].startswith("m=video "):
        return False
    found = next((line[2:] for line in lines if line in _DIRECTIONS), "sendrecv")
    return found in (direction, "sendrecv")


def _completed(lines: Sequence[str], first: Sequence[str]) -> list[str]:
    """Return a section that stands alone, with what it left to the first one of its bundle."""
    head = lines[0].split()
    head[1] = "9" if head[1] == "0" else head[1]
    own = [line for line in lines[1:] if line != "a=bundle-only"]
    for prefix in _TRANSPORT:
        if not any(line.startswith(prefix) for line in own):
            own += [line for line in first if line.startswith(prefix)]
    if not any(line.startswith(_CANDIDATES) for line in own):
        own += [line for line in first if line.startswith(_CANDIDATES)]
    if not any(line in _DIRECTIONS for line in own):
        own.append("a=sendrecv")
    return [" ".join(head), *own]


def _rejection(lines: Sequence[str]) -> tuple[str, ...]:
    """Return a section of the answer that rejects this one of the offer (RFC 3264: port 0)."""
    kind, _, profile, *formats = lines[0].split()
    kept = ("a=mid:", "a=rtpmap:", "a=fmtp:", "a=sctp-port:")
    answer = [f"{kind} 0 {profile} {' '.join(formats)}", "c=IN IP4 0.0.0.0", "a=inactive"]
    answer += [line for line in lines if line.startswith(kept)]
    return tuple(answer)


def _carrier(session: Sequence[str], sections: Sequence[Sequence[str]], chosen: int) -> int | None:
    """Return the index of the first section of the bundle of the chosen one, unless it is that."""
    mids = [_mid(lines) for lines in sections]
    for line in session:
        bundle = line.split()[1:] if line.startswith("a=group:BUNDLE ") else []
        if bundle and mids[chosen] in bundle[1:] and bundle[0] in mids:
            first = mids.index(bundle[0])
            return first if sections[first][0].startswith(("m=audio ", "m=video ")) else None
    return None


def _mid(lines: Sequence[str]) -> str | None:
    return next((line[len("a=mid:") :] for line in lines if line.startswith("a=mid:")), None)


def _join(lines: Sequence[str]) -> str:
    return "\r\n".join(lines) + "\r\n"
