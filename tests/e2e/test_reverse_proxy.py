"""The blocks of docs/reverse_proxy.md in a real nginx and a real Caddy."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.bridge.conftest import PATIENCE_S, Rig, RigMaker, make_rig
from tests.bridge.test_whep import HEADERS, Viewer
from tests.support.chromium import Browser
from worldbridge.bridge.protocol import Hello, Welcome, decode_server, encode

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

NAME = "play.example.org"
DOCUMENT = Path(__file__).parents[2] / "docs" / "reverse_proxy.md"


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.S | re.M)
    assert found is not None
    return found[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nginx(folder: Path, port: int, target: int) -> list[str]:
    server = block("nginx").replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    server = re.sub(r"^ *ssl_.*\n", "", server, flags=re.M)
    server = server.replace("127.0.0.1:8080", f"127.0.0.1:{target}")
    paths = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = f"daemon off;\npid {folder}/pid;\nerror_log {folder}/log;\nevents {{}}\n"
    (folder / "conf").write_text(f"{text}http {{\naccess_log off;\n{paths}{server}}}\n")
    return ["nginx", "-e", f"{folder}/log", "-p", str(folder), "-c", f"{folder}/conf"]


def caddy(folder: Path, port: int, target: int) -> list[str]:
    site = block("caddyfile").replace(NAME, f"http://{NAME}:{port}")
    site = site.replace("127.0.0.1:8080", f"127.0.0.1:{target}")
    (folder / "Caddyfile").write_text("{\n    admin off\n}\n" + site)
    return ["caddy", "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]


@asynccontextmanager
async def proxying(
    kind: str, folder: Path, target: int, *changes: tuple[str, str]
) -> AsyncIterator[int]:
    binary = shutil.which(kind, path=f"{os.environ['PATH']}:/usr/sbin")
    if binary is None:
        pytest.skip(f"{kind} is not installed")
    port = free_port()
    command = {"nginx": nginx, "caddy": caddy}[kind](folder, port, target)
    for old, new in changes:
        file = folder / "conf"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    process = await asyncio.create_subprocess_exec(
        binary,
        *command[1:],
        env={**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await listening(port)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def listening(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise AssertionError("the proxy does not listen")


@pytest.fixture
async def rig(make_rig: RigMaker) -> Rig:
    rig = await make_rig(allow_hosts=(NAME,), trusted_proxies=("127.0.0.1",))
    await rig.worker()
    return rig


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
async def test_players_and_viewers_come_through(rig: Rig, tmp_path: Path, kind: str) -> None:
    async with proxying(kind, tmp_path, rig.port) as port:
        url = f"ws://{NAME}:{port}/session"
        origin = f"http://{NAME}:{port}"
        async with connect(url, host="127.0.0.1", port=port, proxy=None, origin=origin) as player:  # type: ignore[arg-type]
            await player.send(encode(Hello("test")))
            while not isinstance(decode_server(await wait(player)), Welcome):
                pass
            viewer = Viewer()
            headers = {**HEADERS, "Host": f"{NAME}:{port}", "Origin": origin}
            base = f"http://127.0.0.1:{port}/"
            async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as http:
                offer = await viewer.offer()
                made = await http.post(base + "whep", content=offer, headers=headers)
                assert made.status_code == 201, made.text
                gone = await http.delete(base + made.headers["location"], headers=headers)
                assert gone.status_code == 200
                page = await http.get(base, headers={"Host": f"{NAME}:{port}"})
                assert page.status_code == 200 and "<html" in page.text
            await viewer.pc.close()
        signalling = connect(f"ws://{NAME}:{port}/", host="127.0.0.1", port=port, proxy=None)
        async with signalling as front_end:
            assert '"config"' in str(await asyncio.wait_for(front_end.recv(), PATIENCE_S))


async def wait(socket: object) -> bytes:
    data = await asyncio.wait_for(socket.recv(), PATIENCE_S)  # type: ignore[attr-defined]
    assert isinstance(data, bytes)
    return data


@pytest.mark.browser
async def test_the_page_plays_below_a_path_of_its_own(
    make_rig: RigMaker, tmp_path: Path, browser: Browser
) -> None:
    rig = await make_rig()
    await rig.worker()
    own = f"proxy_pass http://127.0.0.1:{rig.port}"
    below = ("location / {", "location /world/ {"), (f"{own};", f"{own}/;")
    async with proxying("nginx", tmp_path, rig.port, *below) as port:
        page = await browser.new_page()
        await page.open(f"http://localhost:{port}/world/?autoplay=1")
        await page.until("worldbridge.stats().page.frames.shown > 15", 60)


@pytest.mark.browser
async def test_the_page_says_why_it_is_refused(rig: Rig, tmp_path: Path, browser: Browser) -> None:
    """A proxy that sends its own Host header: the page loads, and its WebSocket is refused."""
    own = f"127.0.0.1:{rig.port}"
    async with proxying("nginx", tmp_path, rig.port, ("$http_host", own)) as port:
        page = await browser.new_page()
        await page.open(f"http://localhost:{port}/?autoplay=1")
        await page.until("document.body.innerText.includes('--allow-origin')", 60)


__all__ = ["make_rig"]
