"""Which pages may connect: directly, and behind a reverse proxy."""

from __future__ import annotations

import logging

import pytest

from worldbridge.bridge.gateway.origin import OriginGuard
from worldbridge.bridge.protocol import BridgeError

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
