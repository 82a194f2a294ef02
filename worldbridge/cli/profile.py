"""`worldbridge profile`: run the Python client's profiler and show what it found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from worldbridge.cli.console import Json, print_result, table_of
from worldbridge.errors import StartError
from worldbridge.settings import TOKEN_VARIABLE

if TYPE_CHECKING:
    from rich.table import Table

    from worldbridge.engine_plugins.python import ProfileResult

__all__ = ["measure", "profile"]

SPANS: Final = {
    "uplink": "control sampled -> gateway has it",
    "wait": "gateway has it -> step that uses it",
    "tokens": "step starts -> tokens decoded",
    "detokenize": "tokens decoded -> frame ready",
    "handover": "worker -> gateway",
    "encode": "frame -> compressed",
    "downlink": "compressed -> here",
    "show": "here -> decoded frame",
}
_ANSWER_SECONDS: Final = 5.0


def profile(
    url: Annotated[str, typer.Argument(help="The server's address, as its ready line prints it.")],
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long to play.")] = 20.0,
    token: Annotated[
        str | None, typer.Option(help="The server's secret, if it has one.", envvar=TOKEN_VARIABLE)
    ] = None,
    prompt_frame: Annotated[
        list[Path] | None,
        typer.Option(help="Image that the session starts from; repeatable, oldest first."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure where the time from input to photon goes.

    Plays a scripted sequence of controls and measures frames per second, input-to-photon latency
    with each of its spans, and dropped frames. "Photon" means the decoded frame in this process.
    Frames arrive as JPEG over the WebSocket; the page measures WebRTC with a real screen.
    """
    result = measure(url, seconds=seconds, token=token, prompt_frames=prompt_frame or ())
    print_result(result.as_json(), lambda _: _table(result), as_json=as_json)


def measure(
    url: str, *, seconds: float, token: str | None = None, prompt_frames: Sequence[Path] = ()
) -> ProfileResult:
    """Play on a server and return what was measured.

    Raises StartError when no server answers, refuses the session or sends no frame, and
    ConfigError for a prompt frame that is not a usable image.
    """
    from worldbridge.cli.prompt_files import read_prompt_files

    address = url if "://" in url else f"http://{url}"
    files = read_prompt_files("prompt-frame", prompt_frames) if prompt_frames else None
    return asyncio.run(_measure(address, seconds, token, files))


async def _measure(
    url: str, seconds: float, token: str | None, prompt_frames: Sequence[bytes] | None
) -> ProfileResult:
    from worldbridge.bridge.protocol import BridgeError
    from worldbridge.engine_plugins.python import ConnectError
    from worldbridge.engine_plugins.python import profile as run_profile

    # The client waits for a server that restarts; here an address without a server is an error.
    await _check_answers(url)
    try:
        return await run_profile(url, seconds, token=token, prompt_frames=prompt_frames)
    except BridgeError as error:
        raise StartError(
            f"{error.code}: {error.message}",
            expected=error.expected,
            got=error.got,
            remedy=error.remedy,
        ) from error
    except (TimeoutError, RuntimeError, ConnectError) as error:
        raise StartError(
            "nothing could be measured",
            expected="frames that answer inputs",
            got=str(error) or "no frame at all",
            remedy=f"look at the server's log and at {url.rstrip('/')}/health",
        ) from error


async def _check_answers(url: str) -> None:
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


def _table(result: ProfileResult) -> Table:
    percentiles = "p50", "p95", "p99"
    heads = "span", "from -> to", *(f"{name} ms" for name in percentiles)
    title = (
        f"{result.world}: {result.frames_per_second:.1f} frames/s over {result.seconds:.0f} s, "
        f"{result.dropped_frames} dropped ({result.transport})"
    )
    table = table_of(*heads, numbers=3, title=title)
    rows = [(span, SPANS[span], summary) for span, summary in result.spans_ms.items()]
    rows.append(("total", "control sampled -> frame", result.input_to_photon_ms))
    for span, text, summary in rows:
        table.add_row(span, text, *(f"{summary[name]:.1f}" for name in percentiles))
    return table
