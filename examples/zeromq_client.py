"""Walk ahead and watch the frames, with pyzmq, msgpack and NumPy alone.

    worldbridge serve --world procedural --zmq-port 5555
    python examples/zeromq_client.py tcp://127.0.0.1:5555 --frames 120

docs/zeromq.md and docs/protocol.md describe every message.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import msgpack
import numpy as np
import zmq

CREDIT = 2  # frames that may be on their way


def now_ms() -> float:
    return time.perf_counter() * 1000


class Client:
    def __init__(self, address: str, token: str | None) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 200
        self.socket.connect(address)
        hello = {"client": "zeromq example", "transports": ["zeromq"], "codecs": ["rgb"]}
        self.send("hello", **hello, token=token, version=2)
        self.pinged_ms = 0.0
        self.sequence = 0

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(msgpack.packb({"type": kind, **fields}))

    def steer(self, **controls: Any) -> None:
        self.send("input", states=[{"sequence": self.sequence, "time": now_ms(), **controls}])
        self.sequence += 1

    def receive(self) -> tuple[dict[str, Any], list[bytes]]:
        """Return the next message and the parts after it. Raises RuntimeError for an error."""
        while not self.socket.poll(100):
            self.ping()
        self.ping()
        first, *rest = self.socket.recv_multipart()
        message = msgpack.unpackb(first)
        if message["type"] == "error":
            raise RuntimeError(
                f"{message['message']}: expected {message['expected']}, got "
                f"{message['got']}. {message['remedy']}"
            )
        return message, rest

    def ping(self) -> None:
        if now_ms() - self.pinged_ms > 500:
            self.pinged_ms = now_ms()
            self.send("ping", time=self.pinged_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", nargs="?", default="tcp://127.0.0.1:5555")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--token")
    options = parser.parse_args()

    client, frames, begun = Client(options.address, options.token), 0, 0.0
    while frames < options.frames:
        message, parts = client.receive()
        if message["type"] == "welcome":
            client.send("start", seed=5)
            client.send("credit", frames=CREDIT)
        elif message["type"] == "frame":
            client.send("credit", frames=1)
            header = message["header"]
            shape = (header["height"], header["width"], 3)
            pixels = np.frombuffer(parts[0], np.uint8).reshape(shape)
            begun = begun or now_ms()
            frames += 1
            client.steer(keys=["KeyW"])
    seconds = (now_ms() - begun) / 1000
    print(
        f"{frames} frames in {seconds:.1f} s, the last one {pixels.shape}, "
        f"mean {pixels.mean():.0f}, at {header['camera']['position']}"
    )
    client.send("bye")


if __name__ == "__main__":
    main()
