"""The server speaks TLS itself, and reads a renewed certificate."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.bridge.conftest import RigMaker
from worldbridge.bridge.config import GatewayConfig, load_certificate
from worldbridge.bridge.gateway import process
from worldbridge.engine_plugins.python import connect
from worldbridge.errors import ConfigError
from worldbridge.health import ask_health


def certify(folder: Path) -> dict[str, str]:
    """Write a new self-signed certificate for this machine; return the settings that name it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    private = serialization.PrivateFormat.PKCS8
    (folder / "key").write_bytes(key.private_bytes(serialization.Encoding.PEM, private, plain))
    (folder / "cert").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return {"tls_cert": str(folder / "cert"), "tls_key": str(folder / "key")}


async def test_it_plays_over_tls(
    make_rig: RigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await make_rig(**certify(tmp_path))
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
    rig = await make_rig(**certify(tmp_path))

    async def served() -> str:
        address = ("127.0.0.1", rig.port)
        return await asyncio.to_thread(ssl.get_server_certificate, address)

    first = await served()
    assert first.strip() == (tmp_path / "cert").read_text().strip()
    (tmp_path / "cert").write_text("half of a certificate")
    await asyncio.sleep(0.3)
    assert await served() == first, "one that cannot be read changes nothing"
    certify(tmp_path)
    async with asyncio.timeout(20):
        while (await served()).strip() != (tmp_path / "cert").read_text().strip():
            await asyncio.sleep(0.05)


def test_what_is_no_certificate_is_refused(tmp_path: Path) -> None:
    settings = certify(tmp_path)
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
