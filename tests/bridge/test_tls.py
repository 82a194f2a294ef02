"""The server speaks TLS itself, and reads a renewed certificate."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest

from tests.bridge.conftest import RigMaker
from tests.support.certificate import certify
from worldbridge.bridge.config import GatewayConfig, load_certificate
from worldbridge.bridge.gateway import process
from worldbridge.engine_plugins.python import connect
from worldbridge.errors import ConfigError
from worldbridge.health import ask_health


def certified(folder: Path) -> dict[str, str]:
    """Write a new certificate; return the settings that name it."""
    certificate, key = certify(folder)
    return {"tls_cert": certificate, "tls_key": key}


async def test_it_plays_over_tls(
    make_rig: RigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await make_rig(**certified(tmp_path))
    await rig.worker()
    assert rig.url.startswith("https://")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    async with connect(rig.url) as client:
        state = client.steer(keys=("KeyW",))
        while (await client.frame()).header.input_sequence < state.sequence:
            state = client.steer(keys=("KeyW",))
        with pytest.raises(httpx.TransportError):  # plain HTTP at the same port disturbs nobody
            async with httpx.AsyncClient() as plain:
                await plain.get(f"http://127.0.0.1:{rig.port}/health")
        await client.frame()
    health = await ask_health("127.0.0.1", rig.port, tls=True)
    assert health is not None and health.ready


async def test_a_renewed_certificate_is_read(
    make_rig: RigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_RENEW_S", 0.05)
    rig = await make_rig(**certified(tmp_path))

    async def served() -> str:
        address = ("127.0.0.1", rig.port)
        return await asyncio.to_thread(ssl.get_server_certificate, address)

    first = await served()
    assert first.strip() == (tmp_path / "cert").read_text().strip()
    (tmp_path / "cert").write_text("half of a certificate")
    await asyncio.sleep(0.3)
    assert await served() == first, "one that cannot be read changes nothing"
    certified(tmp_path)
    async with asyncio.timeout(20):
        while (await served()).strip() != (tmp_path / "cert").read_text().strip():
            await asyncio.sleep(0.05)


def test_what_is_no_certificate_is_refused(tmp_path: Path) -> None:
    settings = certified(tmp_path)
    load_certificate(GatewayConfig(**settings))  # type: ignore[arg-type]
    for wrong in ({"tls_cert": settings["tls_cert"]}, {"tls_key": settings["tls_key"]}):
        with pytest.raises(ConfigError, match="tls_cert"):
            GatewayConfig(**wrong)  # type: ignore[arg-type]
    (tmp_path / "cert").write_text("text")
    with pytest.raises(ConfigError, match="certificate cannot be used"):
        load_certificate(GatewayConfig(**settings))  # type: ignore[arg-type]
    (tmp_path / "cert").unlink()
    with pytest.raises(ConfigError, match="certificate cannot be used"):
        load_certificate(GatewayConfig(**settings))  # type: ignore[arg-type]
