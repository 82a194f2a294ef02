"""WHEP: any standard WebRTC viewer watches a session (draft-ietf-wish-whep).

`POST /whep` with an SDP offer answers 201 with the SDP answer; `Location` is the viewer's
resource, relative to the request, and `DELETE` on it ends the viewing. A viewer is a spectator
like any other.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.local import LocalClient
from worldbridge.bridge.protocol import Answer, BridgeError, Hello, IceServer, Offer
from worldbridge.bridge.transports.sdp import OneVideo, video_codecs
from worldbridge.bridge.transports.webrtc import choose_codec
from worldbridge.clock import now_ms

__all__ = ["Resource", "SdpEndpoint", "WhepEndpoint", "bearer"]

SDP: Final = "application/sdp"
MAX_SDP: Final = 60_000  # bytes
MAX_PENDING: Final = 8  # resources of one address that have not connected yet
CONNECT_S: Final = 30.0  # in which a resource has to connect
READY_S: Final = 3.0  # for the world to be ready
CODECS: Final = ("h264", "vp8")  # the best first
_POLL_S: Final = 0.2
_STATUS: Final[dict[str, int]] = {
    "unauthorized": 401,
    "forbidden_origin": 403,
    "session_expired": 404,
    "unsupported": 406,
    "message_too_large": 413,
    "no_free_seat": 503,
    "worker_lost": 503,
    "internal": 500,
}
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(eq=False, slots=True)
class Resource:
    """What one successful POST made.

    Attributes:
        connected: its media flowed once.
        details: returns what a GET answers besides that.
    """

    address: str
    end: Callable[[], None]
    is_open: Callable[[], bool]
    details: Callable[[], dict[str, Any]] = dict
    connected: bool = False
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))


class SdpEndpoint:
    """An offer by POST, an answer with a resource, DELETE to end it: what WHIP and WHEP share."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._resources: dict[str, Resource] = {}
        self._opening: list[str] = []  # addresses of requests that are being answered

    async def open(self, request: Request, sdp: str) -> tuple[Resource, str, tuple[IceServer, ...]]:
        """Return the resource of an offer, its answer, and the ICE servers. Raises BridgeError."""
        raise NotImplementedError

    def describe(self, resource: Resource) -> Response:
        """Answer a GET on a resource."""
        return JSONResponse({"connected": resource.connected, **resource.details()})

    def routes(self, path: str) -> list[Route]:
        """Return the routes of the endpoint at `path` and of its resources."""
        methods = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"]
        name = path.rsplit("/", 1)[-1]

        async def endpoint(request: Request) -> Response:
            return _shared(request, await self._endpoint(request, name))

        async def resource(request: Request) -> Response:
            return _shared(request, self._resource(request))

        return [
            Route(path, endpoint, methods=methods),
            Route(path + "/{id}", resource, methods=methods),
        ]

    async def _endpoint(self, request: Request, name: str) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Accept-Post": SDP})
        if request.method != "POST":
            return _not_allowed("OPTIONS, POST", request)
        try:
            sdp = await _read_sdp(request)
            resource, answer, servers = await self._admit(request, sdp)
        except BridgeError as error:
            return refusal(error)
        response = Response(answer, 201, {"Location": f"{name}/{resource.id}"}, SDP)
        for link in _ice_links(servers):
            response.headers.append("Link", link)
        return response

    async def _admit(
        self, request: Request, sdp: str
    ) -> tuple[Resource, str, tuple[IceServer, ...]]:
        """Open a resource and watch it. Raises BridgeError, also for one too many."""
        address = address_of(request)
        pending = [each.address for each in self._resources.values() if not each.connected]
        count = (pending + self._opening).count(address)
        if count >= MAX_PENDING:
            raise BridgeError(
                "no_free_seat",
                "too many of this address's viewers have not connected",
                f"fewer than {MAX_PENDING} that wait",
                f"{count}",
                f"Connect or DELETE them; each one expires after {CONNECT_S:g} s.",
            )
        self._opening.append(address)
        try:
            resource, answer, servers = await self.open(request, sdp)
        finally:
            self._opening.remove(address)
        self._resources[resource.id] = resource
        self.gateway.spawn(self._watch(resource))
        return resource, answer, servers

    async def _watch(self, resource: Resource) -> None:
        """End a resource that does not connect in time, or whose connection ends."""
        until = now_ms() + CONNECT_S * 1000
        while resource.id in self._resources and (resource.connected or now_ms() < until):
            await asyncio.sleep(_POLL_S)
            if resource.connected and not resource.is_open():
                break
            resource.connected = resource.connected or resource.is_open()
        self.forget(resource)

    def forget(self, resource: Resource) -> None:
        """End a resource. May be called twice."""
        if self._resources.pop(resource.id, None) is not None:
            resource.end()

    def _resource(self, request: Request) -> Response:
        resource = self._resources.get(request.path_params["id"])
        if request.method == "OPTIONS":
            return Response(status_code=204)
        if resource is None:
            text = "there is no such resource: it ended or expired"
            return refusal(BridgeError("session_expired", text, "", "", "POST another offer."))
        if request.method in ("GET", "HEAD"):
            return self.describe(resource)
        if request.method == "DELETE":
            self.forget(resource)
            return Response(status_code=200)
        # no trickle ICE and no restart: the answer has every candidate of the server
        return _not_allowed("OPTIONS, GET, DELETE", request)


class WhepEndpoint(SdpEndpoint):
    """Viewers. `?session=ID` chooses a session to watch; without it the newest one is shown."""

    async def open(self, request: Request, sdp: str) -> tuple[Resource, str, tuple[IceServer, ...]]:
        video = OneVideo.of(sdp, "recvonly")
        codecs = common_codecs(video.offer)
        client = LocalClient(self.gateway, address_of(request))
        client.peer.address = request.client.host if request.client is not None else None
        try:
            hello = Hello(
                "WHEP",
                role="spectator",
                transports=("webrtc",),
                codecs=codecs,
                token=bearer(request),
                session=request.query_params.get("session"),
            )
            welcome = await client.greet(hello, READY_S)
            answer = await client.ask(Offer(video.offer), Answer, READY_S * 3)
        except TimeoutError as error:
            client.close()
            raise not_ready() from error
        except BaseException:
            client.close()
            raise
        peer = client.peer
        resource = Resource(
            address_of(request), client.close, lambda: peer.rtc is not None and peer.rtc_open
        )
        return resource, video.answer(answer.sdp), welcome.ice_servers


def common_codecs(offer: str) -> tuple[str, ...]:
    """Return the codecs of an offer that the server can send. Raises BridgeError unsupported."""
    names = video_codecs(offer)
    codecs = tuple(name for name in CODECS if name in names)
    try:
        choose_codec(offer, CODECS)
    except BridgeError as error:
        if "codecs" not in error.expected:
            raise
        raise BridgeError(
            "unsupported",
            "the offer has no codec in common with the server",
            "H264 (baseline, packetization-mode=1) or VP8",
            ", ".join(names)[:200] or "no codec",
            "Offer one of these codecs for the video.",
        ) from error
    return codecs


def bearer(request: HTTPConnection) -> str | None:
    """Return the token of `Authorization: Bearer ...`, None if there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip()[:256] or None if scheme.lower() == "bearer" else None


def address_of(request: HTTPConnection) -> str:
    return request.client.host if request.client is not None else ""


def not_ready() -> BridgeError:
    return BridgeError(
        "worker_lost",
        "the world is not ready",
        "a world that plays",
        "one that loads",
        "Try again in a few seconds; /health says when it is ready.",
    )


def refusal(error: BridgeError) -> Response:
    """Return the response for an error: its status, and all of it as JSON."""
    status = _STATUS.get(error.code, 400)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if status == 503:
        headers["Retry-After"] = "5"
    names = ("code", "message", "expected", "got", "remedy")
    return JSONResponse({name: getattr(error, name) for name in names}, status, headers)


def _not_allowed(allowed: str, request: Request) -> Response:
    error = BridgeError(
        "unsupported", "this resource does not take the method", allowed, request.method, ""
    )
    response = refusal(error)
    response.status_code = 405
    response.headers["Allow"] = allowed
    return response


async def _read_sdp(request: Request) -> str:
    """Return the body of a POST. Raises BridgeError."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != SDP:
        remedy = "Set the header Content-Type."
        raise BridgeError("bad_message", "the body is no SDP", SDP, repr(kind)[:80], remedy)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_SDP:
            most = f"at most {MAX_SDP} bytes"
            raise BridgeError("message_too_large", "the offer is too large", most, "more", "")
    return body.decode("utf-8", "replace")


def _shared(request: Request, response: Response) -> Response:
    """Let pages of allowed origins read a response: the guard refused all others before."""
    headers = response.headers
    headers["Cache-Control"] = "no-store"
    origin = request.headers.get("origin")
    if origin is None:
        return response
    headers["Access-Control-Allow-Origin"] = origin
    headers["Vary"] = "Origin"
    headers["Access-Control-Expose-Headers"] = "Location, Link, Retry-After, WWW-Authenticate"
    if request.method == "OPTIONS":
        headers["Access-Control-Allow-Methods"] = "OPTIONS, GET, POST, DELETE"
        headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        headers["Access-Control-Max-Age"] = "600"
    return response


def _ice_links(servers: tuple[IceServer, ...]) -> list[str]:
    """Return `Link` headers for ICE servers (RFC 9725)."""
    links = []
    for server in servers:
        for url in server.urls:
            link = f'<{url}>; rel="ice-server"'
            if server.username is not None:
                link += f'; username="{server.username}"; credential="{server.credential or ""}"'
                link += '; credential-type="password"'
            links.append(link)
    return links
