"""An echo server on the gateway's WebSockets, for the Autobahn test suite.

Its fuzzing client needs an echo, and Python 2.7. With autobahntestsuite 0.8.2:

    python -m tests.hostile.autobahn 9123
    wstest -m fuzzingclient -s spec.json

where spec.json names the server ws://127.0.0.1:9123 and the cases 1.* to 7.* and 10.*. Messages of
9.* are larger than those of clients may be; 12.* and 13.* ask for compression, which is off.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
import uvloop

from worldbridge.bridge.gateway.http import MAX_WEBSOCKET_MESSAGE, AbortableWebSocket
from worldbridge.bridge.gateway.limits import ConnectionTable, LimitedHttp


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Send back every message of a WebSocket."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        kind = "bytes" if message.get("bytes") is not None else "text"
        await send({"type": "websocket.send", kind: message[kind]})


def main() -> None:
    limits = {"table": ConnectionTable(100, 100)}
    config = uvicorn.Config(
        echo,
        port=int(sys.argv[1]),
        http=type("Http", (LimitedHttp,), limits),
        ws=type("WebSocket", (AbortableWebSocket,), limits),
        ws_max_size=MAX_WEBSOCKET_MESSAGE,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        lifespan="off",
        log_level="error",
    )
    uvloop.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
