"""Which pages may connect: directly, and behind a reverse proxy."""

from __future__ import annotations

import logging

import httpx
import pytest
from websockets import Origin
from websockets.asyncio.client import connect

from tests.bridge.conftest import Rig, RigMaker
from worldbridge.bridge.gateway.origin import OriginGuard
from worldbridge.bridge.protocol import BridgeError, Hello, Status, Welcome, decode_server, encode

NAME = "play.example.org"
GUARD = OriginGuard("127.0.0.1", (NAME,))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (f"{NAME}:443", f"https://{NAME}"),
        (f"{NAME}:80", f"http://{NAME}"),
        (NAME, f"https://{NAME}:443"),
        (NAME, f"http://{NAME}:80"),
        (NAME, f"https://{NAME}"),
        (NAME.upper(), f"https://{NAME}"),
        (f"{NAME}:8443", f"https://{NAME}:8443"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("[::1]:80", "http://[::1]"),
        (f"{NAME}:443", None),
    ],
)
def test_a_default_port_equals_none(host: str, origin: str | None) -> None:
    GUARD.check(host, origin)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (NAME, f"https://{NAME}:3001"),
        ("127.0.0.1:8080", f"https://{NAME}"),
        (NAME, "https://evil.example"),
        (f"{NAME}:80", f"https://{NAME}"),
        (f"{NAME}:443", f"http://{NAME}"),
        (NAME, "null"),
        (NAME, f"ftp://{NAME}"),
        (NAME, f"https://evil.example/{NAME}"),
    ],
)
def test_other_pages_are_refused_and_the_log_names_the_option(
    host: str, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(BridgeError) as caught:
        GUARD.check(host, origin)
    assert caught.value.code == "forbidden_origin"
    assert origin in caplog.text and "--allow-origin" in caplog.text


@pytest.mark.parametrize(
    "host", ["", "evil.example", "[::1];x", "a[::1]", f"{NAME}:x", f"u@{NAME}", f"{NAME}/", None]
)
def test_other_hosts_are_refused_and_the_log_names_the_option(
    host: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(BridgeError, match="--allow-host"):
        GUARD.check(host, None)
    assert "--allow-host" in caplog.text


async def test_a_trusted_proxy_says_which_host_was_asked_for(make_rig: RigMaker) -> None:
    trusting = await make_rig(allow_hosts=(NAME,), trusted_proxies=("127.0.0.1",))
    async with httpx.AsyncClient(trust_env=False) as http:

        async def status(rig: Rig, **headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return (await http.get(rig.url + "health", headers=named)).status_code

        origin = f"https://{NAME}"
        assert await status(trusting, X_Forwarded_Host=NAME, Origin=origin) == 200
        assert await status(trusting, X_Forwarded_Host=f"evil.example, {NAME}") == 200
        assert await status(trusting, X_Forwarded_Host=f"{NAME}, evil.example") == 403
        assert await status(trusting, X_Forwarded_Host=NAME, Origin="https://evil.example") == 403
        assert await status(trusting, Origin=origin) == 403, "the proxy hides the name"
        await trusting.worker()
        url = f"ws://127.0.0.1:{trusting.port}/session"
        forwarded = {"X-Forwarded-Host": NAME, "X-Forwarded-For": "192.0.2.9"}
        async with connect(
            url, origin=Origin(origin), additional_headers=forwarded, proxy=None
        ) as socket:
            await socket.send(encode(Hello("browser")))
            data = await socket.recv()
            assert isinstance(data, bytes) and isinstance(decode_server(data), Status | Welcome)


async def test_others_cannot_say_which_host_was_asked_for(make_rig: RigMaker) -> None:
    rig = await make_rig(allow_hosts=(NAME,), trusted_proxies=("192.0.2.1",))
    headers = {"X-Forwarded-Host": NAME, "Host": "evil.example"}
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(rig.url + "health", headers=headers)).status_code == 403
