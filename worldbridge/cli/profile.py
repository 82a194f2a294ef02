"""`worldbridge profile`: runs the Python client's profiler and shows what it found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import websockets
from rich.table import Table

from worldbridge.bridge.errors import BridgeError
from worldbridge.cli.prompt_files import read_prompt_files
from worldbridge.engine_plugins.python import ProfileResult, profile
from worldbridge.errors import StartError

__all__ = ["as_table", "measure"]

LEG_TEXT: Final = {
    "uplink": "control sampled -> gateway has it",
    "wait": "gateway has it -> step that uses it",
    "tokens": "step starts -> tokens decoded",
    "pixels": "tokens decoded -> picture ready",
    "handover": "worker -> gateway",
    "encode": "picture -> compressed",
    "downlink": "compressed -> here",
    "show": "here -> decoded picture",
}
_ANSWER_SECONDS: Final = 5.0


def measure(
    url: str, *, seconds: float, token: str | None = None, pictures: Sequence[Path] = ()
) -> ProfileResult:
    """Raises StartError when nobody answers, the server refuses us, or sends no frame; ConfigError
    for pictures that are none."""
    address = url if "://" in url else f"http://{url}"
    files = read_prompt_files("picture", pictures) if pictures else None
    return asyncio.run(_measure(address, seconds, token, files))


async def _measure(
    url: str, seconds: float, token: str | None, pictures: Sequence[bytes] | None
) -> ProfileResult:
    # The client waits patiently for a server that comes back; whoever typed an address wants to
    # know at once that nobody is there.
    await _knock(url)
    try:
        return await profile(url, seconds, token=token, pictures=pictures)
    except BridgeError as error:
        raise StartError(
            f"{error.code}: {error.message}",
            expected=error.expected,
            got=error.got,
            remedy=error.remedy,
        ) from error
    except (TimeoutError, RuntimeError, websockets.InvalidHandshake) as error:
        raise StartError(
            "nothing could be measured",
            expected="frames that answer inputs",
            got=str(error) or "no frame at all",
            remedy=f"look at the server's log and at {url.rstrip('/')}/health",
        ) from error


async def _knock(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme in ("https", "wss") else 80)
        async with asyncio.timeout(_ANSWER_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname or "", port)
    except (OSError, TimeoutError, ValueError) as error:
        raise StartError(
            "no server answers at this address",
            expected="the address from a server's ready line, such as http://127.0.0.1:8080",
            got=f"{url} ({str(error) or type(error).__name__})",
            remedy="start one with worldbridge serve",
        ) from error
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def as_table(result: ProfileResult) -> Table:
    table = Table(
        title=f"{result.world}: {result.frames_per_second:.1f} frames/s over "
        f"{result.seconds:.0f} s, {result.dropped_frames} dropped ({result.transport})"
    )
    table.add_column("leg")
    table.add_column("from -> to")
    for name in ("p50", "p95", "p99"):
        table.add_column(f"{name} ms", justify="right")
    for leg, summary in result.legs_ms.items():
        table.add_row(leg, LEG_TEXT[leg], *_cells(summary))
    table.add_section()
    table.add_row("total", "control sampled -> picture", *_cells(result.input_to_photon_ms))
    return table


def _cells(summary: dict[str, float]) -> list[str]:
    return [f"{summary[name]:.1f}" for name in ("p50", "p95", "p99")]
