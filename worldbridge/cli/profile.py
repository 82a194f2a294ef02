"""`worldbridge profile`: run the Python client's profiler and show what it found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from worldbridge.cli.console import Json, check_out, print_result, table_of, write_out
from worldbridge.errors import ConfigError, StartError
from worldbridge.settings import TOKEN_VARIABLE

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from worldbridge.engine_plugins.python import ProfileResult
    from worldbridge.engine_plugins.python.webrtc import MediaRelay

__all__ = ["measure", "profile"]

TRANSPORTS: Final = ("websocket_jpeg", "websocket_h264", "webrtc", "zmq_raw", "zmq_h264")
SCENARIOS: Final = ("direct", "lan", "wifi", "lossy", "mobile")
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
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Line to play over: {', '.join(SCENARIOS)}, or all; repeatable. A relay in this "
            "process adds its delay, jitter, loss and limits.  [default: direct]"
        ),
    ] = None,
    transport: Annotated[
        list[str] | None,
        typer.Option(
            help=f"How frames come: {', '.join(TRANSPORTS)}, or all; repeatable. Those of ZeroMQ "
            "need --zmq.  [default: websocket_jpeg]"
        ),
    ] = None,
    zmq: Annotated[
        str | None,
        typer.Option(help="The server's address for ZeroMQ, such as tcp://127.0.0.1:5555."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="HTML file to write: histogram, timeline and spans of every scenario."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="JSON file to write for ui.perfetto.dev: the spans of every control."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure where the time from input to photon goes.

    Plays a scripted sequence of controls and measures frames per second, input-to-photon latency
    with each of its spans, and dropped frames. "Photon" means the decoded frame in this process;
    the page measures with a real screen. With more than one scenario or transport, --json prints
    one object by name.
    """
    from worldbridge.cli.profile_report import html_report, perfetto_trace

    lines = _chosen("scenario", scenario or ["direct"], SCENARIOS)
    ways = _chosen("transport", transport or ["websocket_jpeg"], TRANSPORTS)
    if zmq is None and any(way.startswith("zmq") for way in ways):
        if "all" not in (transport or ()):
            raise ConfigError(
                "the server's address for ZeroMQ is not known",
                expected="--zmq with an address such as tcp://127.0.0.1:5555",
                got="none",
                remedy="start the server with --zmq-port 5555, and add it",
            )
        ways = [way for way in ways if not way.startswith("zmq")]
    for path in (report, trace):
        if path is not None:
            check_out(path)
    results = {
        _name_of(way, line, len(ways), len(lines)): measure(
            zmq if way.startswith("zmq") and zmq is not None else url,
            seconds=seconds,
            token=token,
            prompt_frames=prompt_frame or (),
            scenario=line,
            transport=way,
        )
        for line in lines
        for way in ways
    }
    if report is not None:
        write_out(report, html_report(url, results))
    if trace is not None:
        write_out(trace, perfetto_trace(results))
    if len(results) == 1:
        [result] = results.values()
        print_result(result.as_json(), lambda _: _table(result), as_json=as_json)
        return
    data = {name: result.as_json() for name, result in results.items()}
    print_result(data, lambda _: _tables(results), as_json=as_json)


def _name_of(transport: str, scenario: str, transports: int, scenarios: int) -> str:
    """Return what tells a measurement from the others."""
    if transports == 1:
        return scenario
    return transport if scenarios == 1 else f"{transport}, {scenario}"


def _chosen(kind: str, names: Sequence[str], known: Sequence[str]) -> list[str]:
    wanted = [*known] if "all" in names else [*dict.fromkeys(names)]
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"there is no such {kind}",
                expected=f"{', '.join(known)} or all",
                got=name,
                remedy="choose one of them",
            )
    return wanted


def measure(
    url: str,
    *,
    seconds: float,
    token: str | None = None,
    prompt_frames: Sequence[Path] = (),
    scenario: str = "direct",
    transport: str = "websocket_jpeg",
) -> ProfileResult:
    """Play on a server and return what was measured.

    Raises StartError when no server answers, refuses the session or sends no frame, and
    ConfigError for a prompt frame that is not a usable image, and for a scenario with TLS.
    """
    from worldbridge.config import read_prompt_files

    address = url if "://" in url else f"http://{url}"
    files = read_prompt_files("prompt-frame", prompt_frames) if prompt_frames else None
    return asyncio.run(_over_line(address, scenario, seconds, token, files, transport))


async def _over_line(
    url: str,
    scenario: str,
    seconds: float,
    token: str | None,
    prompt_frames: Sequence[bytes] | None,
    transport: str = "websocket_jpeg",
) -> ProfileResult:
    """Measure through a relay that is like the scenario's line."""
    from worldbridge.benchmarks.impairment import LINKS, tcp_relay, udp_relay

    if scenario == "direct":
        return await _measure(url, seconds, token, prompt_frames, transport)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "ws", "tcp"):
        raise ConfigError(
            "a scenario's relay cannot stand in for a server with TLS",
            expected="an address that begins with http://",
            got=url,
            remedy="profile the server itself, behind its proxy, or leave --scenario out",
        )
    await _check_answers(url)
    server = (parts.hostname or "", parts.port or 80)
    link = LINKS[scenario]
    async with tcp_relay(server, link) as relay, udp_relay(("127.0.0.1", 9), link) as media:
        through = f"{parts.scheme}://127.0.0.1:{relay.port}"

        def media_relay(target: tuple[str, int]) -> tuple[str, int]:
            media.target = target
            return media.address

        return await _measure(through, seconds, token, prompt_frames, transport, media_relay)


async def _measure(
    url: str,
    seconds: float,
    token: str | None,
    prompt_frames: Sequence[bytes] | None,
    transport: str,
    media_relay: MediaRelay | None = None,
) -> ProfileResult:
    from worldbridge.bridge.protocol import BridgeError
    from worldbridge.engine_plugins.python import ConnectError
    from worldbridge.engine_plugins.python import profile as run_profile

    # The client waits for a server that restarts; here an address without a server is an error.
    await _check_answers(url)
    try:
        return await run_profile(
            url,
            seconds,
            token=token,
            prompt_frames=prompt_frames,
            transport=transport,
            media_relay=media_relay,
        )
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


def _tables(results: dict[str, ProfileResult]) -> Group:
    from rich.console import Group

    return Group(*(_table(result, f"{name}: ") for name, result in results.items()))


def _table(result: ProfileResult, name: str = "") -> Table:
    from worldbridge.engine_plugins.python.timing import SPANS

    percentiles = "p50", "p95", "p99"
    heads = "span", "from -> to", *(f"{name} ms" for name in percentiles)
    title = (
        f"{name}{result.world}: {result.frames_per_second:.1f} frames/s over "
        f"{result.seconds:.0f} s, "
        f"{result.dropped_frames} dropped ({result.transport})"
    )
    table = table_of(*heads, numbers=3, title=title)
    rows = [(span, SPANS[span], summary) for span, summary in result.spans_ms.items()]
    rows.append(("total", "control sampled -> frame", result.input_to_photon_ms))
    for span, text, summary in rows:
        table.add_row(span, text, *(f"{summary[name]:.1f}" for name in percentiles))
    return table
