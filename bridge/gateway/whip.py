"""WHIP: a camera's image becomes the prompt frame of a new session (RFC 9725).

`POST /whip` with an offer takes a seat. Once an image has arrived, the session starts from it.
`GET` on the resource says how far it is, and has the `resume` token by which a client takes the
controls.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.local import LocalClient
from worldbridge.bridge.gateway.whep import (
    CODECS,
    READY_S,
    Resource,
    SdpEndpoint,
    address_of,
    bearer,
    not_ready,
)
from worldbridge.bridge.protocol import (
    MAX_PART,
    BridgeError,
    Bye,
    Error,
    Hello,
    IceServer,
    PromptFramePart,
    ServerMessage,
    Start,
    Status,
    Welcome,
)
from worldbridge.bridge.transports.camera import CameraConnection
from worldbridge.bridge.transports.sdp import OneVideo, video_codecs
from worldbridge.bridge.transports.webrtc import filter_offer

__all__ = ["WhipEndpoint"]


class WhipEndpoint(SdpEndpoint):
    """Cameras. Each one is a player of its own until a client resumes its session."""

    async def open(self, request: Request, sdp: str) -> tuple[Resource, str, tuple[IceServer, ...]]:
        video = OneVideo.of(sdp, "sendonly")
        names = video_codecs(video.offer)
        if not set(names) & set(CODECS):
            got = ", ".join(names)[:200] or "no codec"
            remedy = "Send one of these."
            text = "the offer has no codec in common with the server"
            raise BridgeError("unsupported", text, "H264 or VP8", got, remedy)
        camera = _Camera(self.gateway, request)
        try:
            offer = filter_offer(
                video.offer, address_of(request), relays=self.gateway.rtc_settings.relays
            )
            answer = await camera.open(offer)
        except BaseException:
            camera.close()
            raise
        assert camera.welcome is not None
        resource = Resource(
            address_of(request), camera.close, lambda: camera.is_open, details=camera.describe
        )
        return resource, video.answer(answer), camera.welcome.ice_servers


class _Camera:
    """A camera's connection and the client of ours that starts its session."""

    def __init__(self, gateway: Gateway, request: Request) -> None:
        self._gateway = gateway
        self._token = bearer(request)
        self._client = LocalClient(gateway, address_of(request), self._received, self._left)
        self._connection = CameraConnection(gateway.rtc_settings, self._start, self._refuse)
        self._state = "waiting for an image"
        self._error: BridgeError | Error | None = None
        self._ended = False
        self.welcome: Welcome | None = None

    @property
    def is_open(self) -> bool:
        return self._connection.is_open and not self._ended

    async def open(self, offer: str) -> str:
        """Take a seat and return the answer to an offer. Raises BridgeError."""
        hello = Hello(
            "WHIP", role="engine", transports=("webrtc",), codecs=CODECS, token=self._token
        )
        try:
            self.welcome = await self._client.greet(hello, READY_S)
        except TimeoutError as error:
            raise not_ready() from error
        world = self.welcome.world
        if world.max_prompt_frames == 0:
            raise BridgeError(
                "unsupported",
                f"the world {world.name!r} cannot start from an image",
                "a world that is generated",
                "one that is rendered",
                "Serve a generated world: worldbridge serve --world guided.",
            )
        return await self._connection.answer(offer)

    def describe(self) -> dict[str, Any]:
        welcome = self.welcome
        assert welcome is not None
        names = ("code", "message", "expected", "got", "remedy")
        error = self._error
        return {
            "state": self._state,
            "session": welcome.session,
            "resume": welcome.resume,
            "error": error and {name: getattr(error, name) for name in names},
        }

    def close(self) -> None:
        """End the camera. Its session is kept for a while, as that of any player who vanished."""
        if not self._ended:
            self._ended = True
            self._gateway.spawn(self._connection.close())
            self._client.close()

    def _start(self, image: bytes) -> None:
        parts = range(0, len(image), MAX_PART)
        for number, at in enumerate(parts):
            data = image[at : at + MAX_PART]
            self._client.send(PromptFramePart(0, 1, number, len(parts), data))
        self._state = "starting"
        self._client.send(Start(prompt_frames=1))

    def _refuse(self, error: BridgeError | Error) -> None:
        """Free the seat. The resource stays for the camera to read the reason."""
        self._state, self._error = "refused", error
        self._client.send(Bye())

    def _received(self, message: ServerMessage) -> None:
        if isinstance(message, Error) and not message.fatal:
            self._refuse(message)
        elif isinstance(message, Status) and message.state == "playing":
            self._state = "playing"

    def _left(self, error: BridgeError | None) -> None:
        if self._state != "refused":  # another client took the controls, or the server ends it
            self._error = error
            self.close()
