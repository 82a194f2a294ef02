"""A TURN server that is not ours (coturn): time-limited credentials, and play through its relay."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aioice import turn
from aioice.stun import TransactionFailed
from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnection

from tests.bridge.conftest import RigMaker, eventually
from tests.bridge.test_webrtc import BrowserLike, keep_talking, playing
from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway.network import ice_servers
from worldbridge.bridge.protocol import ControllerState, IceServer, Input, encode

SECRET = "shared by both servers"
BINARY = shutil.which("turnserver")
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(BINARY is None, reason="coturn is not installed (apt-get install coturn)"),
]


@asynccontextmanager
async def coturn(folder: Path) -> AsyncIterator[int]:
    """Run coturn on 127.0.0.1; yield its port, the same for UDP and TCP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    assert BINARY is not None
    process = await asyncio.create_subprocess_exec(
        *(BINARY, "-n", "--listening-ip=127.0.0.1", f"--listening-port={port}"),
        *("--relay-ip=127.0.0.1", "--allow-loopback-peers", "--no-cli", "--no-tls", "--no-dtls"),
        *("--use-auth-secret", f"--static-auth-secret={SECRET}", "--realm=example.org"),
        *(f"--pidfile={folder}/pid", f"--userdb={folder}/users", "--log-file=stdout"),
        cwd=folder,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await asyncio.to_thread(_wait_for, port)
        yield port
    finally:
        process.kill()
        await process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "coturn did not start"
            time.sleep(0.05)


async def allocate(port: int, server: IceServer) -> None:
    """Take a relay address with the credentials of a client, and give it back."""
    transport, _ = await turn.create_turn_endpoint(
        asyncio.DatagramProtocol,
        server_addr=("127.0.0.1", port),
        username=server.username or "",
        password=server.credential or "",
    )
    transport.close()


async def test_the_turn_server_takes_our_credentials_until_they_expire(tmp_path: Path) -> None:
    async with coturn(tmp_path) as port:
        urls = (f"turn:127.0.0.1:{port}",)
        config = GatewayConfig(ice_servers=urls, turn_secret=SECRET)
        [now] = ice_servers(config)
        await allocate(port, now)
        [expired] = ice_servers(config, now_s=time.time() - config.turn_ttl_s - 60)
        [forged] = ice_servers(GatewayConfig(ice_servers=urls, turn_secret="another"))
        for refused in (expired, forged):
            with pytest.raises(TransactionFailed, match="401"):
                await allocate(port, refused)


class Relayed(BrowserLike):
    """A client that has no way but the TURN server of the welcome message."""

    def __init__(self, servers: tuple[IceServer, ...]) -> None:
        self._servers = [RTCIceServer(list(s.urls), s.username, s.credential) for s in servers]
        super().__init__()

    def _connection(self) -> RTCPeerConnection:
        return RTCPeerConnection(RTCConfiguration(self._servers, RTCIceTransportPolicy.RELAY))


@pytest.mark.parametrize("carrier", ["udp", "tcp"])
async def test_a_client_plays_through_the_relay(
    make_rig: RigMaker, tmp_path: Path, carrier: str
) -> None:
    async with coturn(tmp_path) as port:
        url = f"turn:127.0.0.1:{port}?transport={carrier}"
        rig = await make_rig(ice_servers=(url,), turn_secret=SECRET)
        await rig.worker()
        client = await playing(rig)
        page = Relayed(client.welcome.ice_servers)
        await page.connect(client)
        offered = page.pc.localDescription.sdp
        assert "typ relay" in offered and "typ host" not in offered
        talk = asyncio.create_task(keep_talking(client))
        await page.frame()
        await eventually(lambda: page.input.readyState == "open")
        page.input.send(encode(Input((ControllerState(5, 1.0, keys=("KeyW",)),))))
        await eventually(lambda: any(f.header.input_sequence == 5 for f in page.headers))
        talk.cancel()
        await page.pc.close()
