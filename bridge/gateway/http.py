"""HTTP and WebSocket in front of the gateway: routes, the guard, and moving bytes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final, cast

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode

from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.limits import (
    AT_ONCE,
    HELLO_WORK,
    PacedReading,
    Stopwatch,
    WorkBudget,
)
from worldbridge.bridge.gateway.origin import OriginGuard
from worldbridge.bridge.gateway.peer import CloseRequest, Peer
from worldbridge.bridge.gateway.pixel_streaming import serve_pixel_streaming
from worldbridge.bridge.gateway.prompts import media_type
from worldbridge.bridge.gateway.static import FOLDERS, StaticPage
from worldbridge.bridge.gateway.whep import WhepEndpoint, address_of, refusal
from worldbridge.bridge.gateway.whip import WhipEndpoint
from worldbridge.bridge.protocol import MAX_CLIENT_MESSAGE, MAX_OBSERVATION, BridgeError, encode
from worldbridge.clock import now_ms

# A message just above our limit is answered with an error of ours; one far above is refused by the
# WebSocket layer before it is in memory.
MAX_WEBSOCKET_MESSAGE: Final = MAX_OBSERVATION + MAX_CLIENT_MESSAGE
MAX_SMALL_MESSAGE: Final = 2 * MAX_CLIENT_MESSAGE  # the same for all who do not play
MAX_FRAGMENTS: Final = 1024  # of one message
WRITE_BUFFER: Final = 64 * 1024  # bytes; beyond them a frame waits where a newer one replaces it
POLICY_VIOLATION: Final = 1008
NORMAL_CLOSURE: Final = 1000
_CONNECTION: Final = "worldbridge.connection"

PAGE_FILES: Final = frozenset({"", *FOLDERS})  # first parts of their paths

Message = MutableMapping[str, Any]


class AbortableWebSocket(PacedReading, WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, with a way to cut a connection whose client reads nothing.

    A close waits for the client to read what was written before; an abort does not.
    """

    peer: Peer | None = None  # once the application has one
    _heard_ms = -math.inf
    _own: WorkBudget | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self.address = self.client[0] if self.client else ""

    def connection_lost(self, exc: Exception | None) -> None:
        self.forget()
        self.table.remove(self.transport)
        super().connection_lost(exc)

    @property
    def share(self) -> WorkBudget:
        if self._own is None and self.peer is not None and self.peer.greeted:
            self._own = WorkBudget(*AT_ONCE)
            self.table.turns.newcomers.spend(HELLO_WORK, time.monotonic())
        return self._own or self.table.turns.newcomers

    def data_received(self, data: bytes) -> None:
        self._heard_ms = now_ms()
        super().data_received(data)

    def read(self, data: bytes) -> None:
        # until it is complete, a message is held in memory: only players send large ones
        large = self.peer is not None and self.peer.sends_large
        self.conn.max_message_size = MAX_WEBSOCKET_MESSAGE if large else MAX_SMALL_MESSAGE
        WebSocketsSansIOProtocol.data_received(self, data)
        if len(self.frames) > MAX_FRAGMENTS:
            self.transport.abort()

    def keep_reading(self) -> None:
        if not self.read_paused:
            self.transport.resume_reading()

    def heard_ms(self) -> float:
        """Return when its newest bytes came, which is now for one whose bytes wait here."""
        return now_ms() if self.behind else self._heard_ms

    def send_receive_event_to_app(self) -> None:
        """Hand on a message. uvicorn would log a traceback for text that is not UTF-8."""
        try:
            if self.curr_msg_data_type == "text":
                b"".join(self.frames).decode()
        except UnicodeDecodeError:
            self.frames = []
            if not self.close_sent:
                self.conn.send_close(CloseCode.INVALID_DATA)
                self.handle_parser_exception()
            return
        super().send_receive_event_to_app()

    async def receive(self) -> Message:  # type: ignore[override]
        message: Message = await super().receive()  # type: ignore[assignment]
        # the queue is empty, but the socket has to wait
        if self.behind and not self.transport.is_closing():
            self.transport.pause_reading()
        return message

    async def run_asgi(self) -> None:
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions[_CONNECTION] = self
        await super().run_asgi()


class _Guarded:
    """Refuses every request whose Host or Origin is not allowed, before anything looks at it."""

    def __init__(self, app: ASGIApp, guard: OriginGuard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            # Browsers send the Origin of modules as well. The page has to load where its WebSocket
            # is refused, to say why; what it is made of is no secret, and others cannot read it.
            origin = None if _is_page(scope) else headers.get("origin")
            try:
                self._guard.check(headers.get("host"), origin)
            except BridgeError as error:
                await _refuse(scope, receive, send, error)
                return
        await self._app(scope, receive, send)


class BehindProxies:
    """Believes the forwarding headers of trusted proxies: who asked, by which name, how."""

    def __init__(self, app: ASGIApp, proxies: Collection[str]) -> None:
        self._app: Any = ProxyHeadersMiddleware(cast(Any, app), trusted_hosts=[*proxies])
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if client is not None and client[0] in self._proxies:
            names = Headers(scope=scope).getlist("x-forwarded-host")
            if names:  # the last one is what the proxy itself added
                host = names[-1].rpartition(",")[2].strip().encode("latin-1")
                others = [pair for pair in scope["headers"] if pair[0] != b"host"]
                scope = {**scope, "headers": [*others, (b"host", host)]}
        await self._app(scope, receive, send)


def _is_page(scope: Scope) -> bool:
    """Return whether a request is for a file of the page."""
    name = scope["path"].strip("/").split("/")[0]
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and name in PAGE_FILES


async def _refuse(scope: Scope, receive: Receive, send: Send, error: BridgeError) -> None:
    names = ("code", "message", "expected", "got", "remedy")
    response = JSONResponse({name: getattr(error, name) for name in names}, 403)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await response(scope, receive, send)


def build_app(gateway: Gateway, guard: OriginGuard) -> ASGIApp:
    """Return the ASGI application of a gateway."""
    page = StaticPage()

    async def session(websocket: WebSocket) -> None:
        await serve_client(gateway, websocket)

    async def pixel_streaming(websocket: WebSocket) -> None:
        await serve_pixel_streaming(gateway, websocket)

    async def health(request: Request) -> Response:
        return JSONResponse(gateway.health(), headers={"Cache-Control": "no-store"})

    async def metrics(request: Request) -> Response:
        try:
            allowed = gateway.may_scrape(
                request.headers.get("authorization", ""), address_of(request)
            )
        except BridgeError as error:
            return refusal(error)
        if not allowed:
            text = "This server requires its token: Authorization: Bearer TOKEN.\n"
            return PlainTextResponse(text, 401, {"WWW-Authenticate": "Bearer"})
        return Response(gateway.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def worlds(request: Request) -> Response:
        world = gateway.worlds.world
        return JSONResponse([world.as_dict()] if world is not None else [])

    async def prompt_frame(request: Request) -> Response:
        if not gateway.prompt_files:
            return PlainTextResponse("This server starts from its themes.\n", 404)
        newest = gateway.prompt_files[-1]
        headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        return Response(newest, media_type=media_type(newest), headers=headers)

    async def asset(request: Request) -> Response:
        return page.respond(request)

    routes = [
        WebSocketRoute("/session", session),
        WebSocketRoute("/", pixel_streaming),  # where players of Pixel Streaming look first
        WebSocketRoute("/pixel-streaming", pixel_streaming),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/worlds", worlds),
        Route("/prompt-frame", prompt_frame),
        *WhepEndpoint(gateway).routes("/whep"),
        *(WhipEndpoint(gateway).routes("/whip") if gateway.takes_cameras else ()),
        Route("/{path:path}", asset),
    ]
    return _Guarded(Starlette(routes=routes), guard)


async def serve_client(gateway: Gateway, websocket: WebSocket) -> None:
    """Serve one WebSocket from accept to end."""
    await websocket.accept()
    connection: AbortableWebSocket = websocket.scope["extensions"][_CONNECTION]
    peer = gateway.connect(connection.transport.abort, connection.heard_ms)
    peer.address = websocket.client.host if websocket.client is not None else None
    connection.peer = peer
    writer = asyncio.create_task(_write(websocket, peer))
    try:
        await _read(gateway, websocket.receive, peer, connection)
    finally:
        gateway.disconnect(peer)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


async def _read(
    gateway: Gateway,
    receive: Callable[[], Awaitable[Message]],
    peer: Peer,
    connection: AbortableWebSocket,
) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        data = message.get("bytes")
        # text is not a message; as bytes it is refused like any other garbage
        watch = Stopwatch()
        gateway.receive(peer, data if data is not None else str(message.get("text")).encode())
        watch.lap()
        connection.worked(watch.fair)


async def _write(websocket: WebSocket, peer: Peer) -> None:
    try:
        while True:
            message = await peer.next_message()
            peer.writing_since_ms = now_ms()
            if isinstance(message, CloseRequest):
                await _close(websocket, message.reason)
                return
            await websocket.send_bytes(encode(message))
            peer.writing_since_ms = None
    except WebSocketDisconnect:
        pass  # the reader ends as well


async def _close(websocket: WebSocket, reason: str) -> None:
    if websocket.application_state is WebSocketState.CONNECTED:
        code = NORMAL_CLOSURE if reason == "bye" else POLICY_VIOLATION
        await websocket.close(code, reason)
