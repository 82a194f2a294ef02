"""Pixel Streaming: Unreal's players and Epic's front-end library play here as they are.

A WebSocket with JSON messages negotiates WebRTC: we are the signalling server and its one
streamer. The player's input comes through the data channel, see `transports.pixel_streaming`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.limits import WorkBudget
from worldbridge.bridge.gateway.local import LocalClient
from worldbridge.bridge.gateway.whep import address_of, bearer
from worldbridge.bridge.protocol import (
    BridgeError,
    Bye,
    Error,
    Hello,
    Input,
    ServerMessage,
    Start,
    Welcome,
)
from worldbridge.bridge.transports.offering import OfferingConnection
from worldbridge.bridge.transports.pixel_streaming import (
    FromStreamer,
    PlayerInput,
    Request,
    ToStreamer,
    text_message,
)
from worldbridge.clock import now_ms

__all__ = ["serve_pixel_streaming"]

log = logging.getLogger(__name__)

PROTOCOL: Final = "1.3.0"  # of the signalling messages
CHANNEL: Final = "datachannel"
MAX_TEXT: Final = 64 * 1024  # characters of one signalling message
MAX_WAITING: Final = 16  # messages
MAX_OFFERS: Final = 16
WORLD_S: Final = 600.0  # how long a player may wait for the world to load
CONNECT_S: Final = 30.0  # for a player to subscribe and to connect
FLUSH_S: Final = 1 / 250  # between two states for the worker, at least
POLL_S: Final = 0.25
REFUSED: Final = 1008
ENDED: Final = 4001


async def serve_pixel_streaming(gateway: Gateway, websocket: WebSocket) -> None:
    """Serve one player from accept to end."""
    await websocket.accept()
    await _Player(gateway, websocket).serve()


class _Player:
    """One front end: its signalling, and the client of ours that it plays as."""

    def __init__(self, gateway: Gateway, websocket: WebSocket) -> None:
        self._gateway = gateway
        self._websocket = websocket
        self._client = LocalClient(gateway, address_of(websocket), self._received, self._left)
        self._welcome: Welcome | None = None
        self._rtc: OfferingConnection | None = None
        self._input = PlayerInput()
        self._budget = WorkBudget()
        self._offers = 0
        self._waiting_ms: float | None = None  # since when the player has to connect
        self._flushing = False
        self._flush_s = 0.0  # when the next state may be sent, in the loop's time
        self._texts: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        self._ended = asyncio.Event()
        self._reason: BridgeError | None = None

    async def serve(self) -> None:
        work = [
            asyncio.create_task(self._read()),
            asyncio.create_task(self._talk()),
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._ended.wait()),
        ]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except WebSocketDisconnect:
            pass
        except BridgeError as error:
            self._reason = error
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            self._client.send(Bye())
            self._client.close()
        await self._close(self._reason)

    # --- signalling ---------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read all the time, so that a player who leaves while the world loads is noticed."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await self._texts.put(message.get("text") or "")

    async def _talk(self) -> None:
        self._welcome = await self._greet()
        servers = [
            {name: value for name, value in server.as_dict().items() if value is not None}
            for server in self._welcome.ice_servers
        ]
        await self._send(
            "config", peerConnectionOptions={"iceServers": servers}, protocolVersion=PROTOCOL
        )
        await self._send("playerCount", count=self._welcome.seats.used)
        self._waiting_ms = now_ms()
        while True:
            text = await self._texts.get()
            begun = time.thread_time()
            await self._handle(_parse(text))
            if not self._budget.spend(time.thread_time() - begun, now_ms() / 1000):
                raise _refusal("too much work for this player", "fewer messages", "more")

    async def _greet(self) -> Welcome:
        query = self._websocket.query_params
        hello = Hello(
            "Pixel Streaming",
            role="spectator" if query.get("role") == "spectator" else "player",
            transports=("webrtc",),
            codecs=("h264", "vp8"),
            token=bearer(self._websocket) or query.get("token"),
        )
        return await self._client.greet(hello, WORLD_S)

    async def _handle(self, message: dict[str, Any]) -> None:
        assert self._welcome is not None
        kind, name = message.get("type"), self._welcome.world.name
        match kind:
            case "listStreamers":
                await self._send("streamerList", ids=[name])
            case "subscribe" if message.get("streamerId") in (name, None):
                await self._offer()
            case "subscribe":
                asked = str(message.get("streamerId"))
                error = _refusal("there is no such streamer", f"the id {name!r}", asked)
                await self._send("subscribeFailed", message=str(error))
            case "unsubscribe":
                self._replace(None)
            case "answer" if self._rtc is not None:
                await self._rtc.accept(str(message.get("sdp")))
            case "ping":
                await self._send("pong", time=message.get("time"))
            case "offer":
                expected = "a player that waits for the streamer's offer"
                raise _refusal("the streamer offers, not the player", expected, "an offer")
            case "endpointId":
                expected = "players, not streamers"
                raise _refusal("this server is a streamer itself", expected, "endpointId")
            case _:  # candidates: the player's packets show its address; statistics; newer ones
                log.debug("a Pixel Streaming message of type %r was ignored", kind)

    async def _offer(self) -> None:
        """Offer the stream. A player who subscribes again gets another connection."""
        self._offers += 1
        if self._offers > MAX_OFFERS:
            raise _refusal("too many subscriptions", f"at most {MAX_OFFERS}", f"{self._offers}")
        callbacks = self._gateway.rtc_callbacks(self._client.peer)
        callbacks = replace(callbacks, message=self._take)
        rtc = OfferingConnection(CHANNEL, callbacks, self._gateway.rtc_settings, self._begin)
        self._replace(rtc)
        await self._send("offer", sdp=await rtc.offer(), sfu=False, scalabilityMode="L1T1")

    def _replace(self, rtc: OfferingConnection | None) -> None:
        peer, self._rtc = self._client.peer, rtc
        old, peer.rtc, peer.rtc_open = peer.rtc, rtc, False
        self._waiting_ms = now_ms()
        if old is not None:
            self._gateway.spawn(old.close())

    async def _watch(self) -> None:
        """End a player whose connection does not come about, or ends."""
        peer, connected = self._client.peer, False
        while True:
            await asyncio.sleep(POLL_S)
            is_open = peer.rtc is not None and peer.rtc is self._rtc and peer.rtc_open
            if connected and self._rtc is not None and not is_open and self._waiting_ms is None:
                raise _refusal("the media connection ended", "packets within 30 s", "none")
            if is_open:
                connected, self._waiting_ms = True, None
            elif self._waiting_ms is not None and now_ms() - self._waiting_ms > CONNECT_S * 1000:
                if self._offers == 0:  # as before Unreal 5.2
                    expected = f"subscribe within {CONNECT_S:g} s"
                    raise _refusal("the player did not subscribe", expected, "no such message")
                seconds = f"within {CONNECT_S:g} s of the offer"
                raise _refusal("no media connection came about", seconds, "none")

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._websocket.send_text(json.dumps({"type": kind, **fields}))

    async def _close(self, error: BridgeError | None) -> None:
        if self._websocket.application_state is not WebSocketState.CONNECTED:
            return
        if self._websocket.client_state is not WebSocketState.CONNECTED:
            return
        try:
            if error is None:
                await self._send("streamerDisconnected")
                await self._websocket.close(ENDED, "the session ended")
                return
            # a close reason holds 123 bytes; the message before it has all of the error
            await self._send("subscribeFailed", message=str(error)[:1000])
            await self._websocket.close(REFUSED, error.message[:100].encode()[:120].decode())
        except (WebSocketDisconnect, RuntimeError):
            pass  # it went away meanwhile

    # --- the client of ours -------------------------------------------------------------------

    def _received(self, message: ServerMessage) -> None:
        if isinstance(message, Error) and self._rtc is not None:
            self._rtc.send(text_message(FromStreamer.RESPONSE, message.as_dict()))

    def _left(self, error: BridgeError | None) -> None:
        self._reason = self._reason or error
        self._ended.set()

    # --- the data channel ---------------------------------------------------------------------

    def _begin(self) -> None:
        """Start the world once a player can steer it."""
        assert self._rtc is not None and self._welcome is not None
        plays = self._client.peer.plays
        self._rtc.send(bytes([FromStreamer.INPUT_CONTROL_OWNERSHIP, plays]))
        self._rtc.send(bytes([FromStreamer.QUALITY_CONTROL_OWNERSHIP, plays]))
        self._rtc.send(text_message(FromStreamer.INITIAL_SETTINGS, self._settings()))
        if plays and not self._welcome.started:
            self._client.send(Start())

    def _take(self, data: bytes) -> None:
        begun = time.thread_time()
        try:
            request = self._input.receive(data)
            if request is not None:
                self._answer(request)
            else:
                self._schedule()
        except BridgeError as error:
            self._reason = error
            self._ended.set()
        if not self._budget.spend(time.thread_time() - begun, now_ms() / 1000):
            self._reason = _refusal("too much work for this player", "fewer messages", "more")
            self._ended.set()

    def _schedule(self) -> None:
        """Send the controls at once, or when the last ones are old enough."""
        if not self._flushing and self._client.peer.plays:
            self._flushing = True
            loop = asyncio.get_running_loop()
            loop.call_later(max(0.0, self._flush_s - loop.time()), self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._flush_s = asyncio.get_running_loop().time() + FLUSH_S
        if self._client.peer.session is not None:
            self._client.send(Input((self._input.state(now_ms()),)))

    def _answer(self, request: Request) -> None:
        assert self._rtc is not None and self._welcome is not None
        send: Callable[[bytes], None] = self._rtc.send
        match request.kind:
            case ToStreamer.IFRAME_REQUEST:
                self._gateway.rtc_callbacks(self._client.peer).keyframe()
            case ToStreamer.REQUEST_QUALITY_CONTROL:
                send(bytes([FromStreamer.QUALITY_CONTROL_OWNERSHIP, self._client.peer.plays]))
            case ToStreamer.REQUEST_INITIAL_SETTINGS:
                send(text_message(FromStreamer.INITIAL_SETTINGS, self._settings()))
            case ToStreamer.TEST_ECHO:
                send(text_message(FromStreamer.TEST_ECHO, request.text))
            case ToStreamer.PAD_CONNECTED:
                number = self._input.connect_pad()
                send(text_message(FromStreamer.PAD_RESPONSE, {"controllerId": number}))
            case ToStreamer.LATENCY_TEST:
                times = dict.fromkeys(("ReceiptTimeMs", "TransmissionTimeMs"), _epoch_ms())
                times |= {"EncodeMs": 0, "CaptureToSendMs": 0}
                send(text_message(FromStreamer.LATENCY_TEST, times))
            case ToStreamer.DATA_CHANNEL_LATENCY_TEST:
                send(text_message(FromStreamer.DATA_CHANNEL_LATENCY_TEST, _echo(request.text)))
            case ToStreamer.UI_INTERACTION:
                self._interact(request.text)

    def _settings(self) -> dict[str, Any]:
        assert self._welcome is not None
        return {
            "PixelStreaming": {"AllowPixelStreamingCommands": False, "DisableLatencyTest": False},
            "WebRTC": {"DegradationPref": "MAINTAIN_FRAMERATE", "FPS": self._welcome.world.fps},
        }

    def _interact(self, text: str) -> None:
        """Restart the world as `emitUIInteraction({theme, seed})` asks for."""
        wanted = _object(text)
        theme, seed = wanted.get("theme"), wanted.get("seed")
        if not isinstance(theme, str | None) or not isinstance(seed, int | None):
            raise _refusal("this is no start", "{theme: text, seed: whole number}", text[:80])
        if self._client.peer.plays:
            self._client.send(Start(theme=theme, seed=seed))


def _parse(text: str) -> dict[str, Any]:
    if len(text) > MAX_TEXT:
        raise _refusal("a message is too large", f"at most {MAX_TEXT} characters", f"{len(text)}")
    return _object(text)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _refusal("this is not a message of Pixel Streaming", "a JSON object", text[:80])
    return value


def _echo(text: str) -> dict[str, Any]:
    """Return the answer to a test of the data channel, as long as it asks for."""
    asked = _object(text)
    size, now = asked.get("FillResponseSize"), _epoch_ms()
    filler = "A" * max(0, min(size, 4096)) if isinstance(size, int) else ""
    return {
        "Seq": asked.get("Seq"),
        "Filler": filler,
        "ReceivedTimestamp": now,
        "SentTimestamp": now,
    }


def _epoch_ms() -> int:
    return round(time.time() * 1000)


def _refusal(message: str, expected: str, got: str) -> BridgeError:
    remedy = "Use the front end for Unreal 5.2 or later, with its default settings."
    return BridgeError("bad_message", message, expected, repr(got)[:200], remedy)
