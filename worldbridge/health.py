"""The gateway's state and its worker's, requested over plain HTTP."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Health", "ask_health", "ask_max_prompt_frames", "ask_themes"]

_TIMEOUT_SECONDS: Final = 2.0
_MAX_BYTES: Final = 1 << 20
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Health:
    ready: bool
    detail: str
    progress: float | None


async def ask_health(host: str, port: int) -> Health | None:
    """Return the state, or None without an answer. A wildcard address means this machine."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return _parse(await _get(host, port, "/health"))
    except (OSError, TimeoutError, ValueError, KeyError):
        return None


async def ask_themes(host: str, port: int) -> list[str]:
    """Return the themes of a ready gateway's world; none if it does not answer."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            worlds = json.loads(await _get(host, port, "/worlds"))
            return [str(theme) for world in worlds for theme in world["themes"]]
    except (OSError, TimeoutError, ValueError, KeyError):
        return []


async def ask_max_prompt_frames(host: str, port: int) -> int:
    """Return how many prompt frames a ready gateway's world takes; 0 if it does not answer."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            worlds = json.loads(await _get(host, port, "/worlds"))
            return max(int(world["max_prompt_frames"]) for world in worlds)
    except (OSError, TimeoutError, ValueError, KeyError):
        return 0


async def _get(host: str, port: int, path: str) -> bytes:
    """Return the body of a response, whatever its status."""
    reader, writer = await asyncio.open_connection(_WILDCARDS.get(host, host), port)
    try:
        request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        response = await reader.read(_MAX_BYTES)
        while chunk := await reader.read(_MAX_BYTES):
            response += chunk
        return response.partition(b"\r\n\r\n")[2]
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _parse(body: bytes) -> Health:
    values: dict[str, Any] = json.loads(body)
    return Health(
        ready=bool(values["ready"]),
        detail=str(values.get("detail", "")),
        progress=values.get("progress"),
    )
