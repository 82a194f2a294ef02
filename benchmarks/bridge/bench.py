"""`worldbridge bench bridge`: how long a frame takes through the gateway, by transport."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from worldbridge.benchmarks.bridge.display import SPANS, VIDEO, display, find_browser
from worldbridge.benchmarks.bridge.source import record
from worldbridge.benchmarks.bridge.viewers import TRANSPORTS
from worldbridge.benchmarks.machine import describe
from worldbridge.engine_plugins.python.timing import percentiles
from worldbridge.errors import ConfigError, StartError
from worldbridge.models.progress import Progress, silent

__all__ = ["NAIVE", "bench_bridge", "browser_or_why", "check_names", "gateway_with_source"]

NAIVE: Final = "naive"
_MODULES: Final = "worldbridge.benchmarks.bridge"
_STOP_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    rates: tuple[float, ...]
    viewers: tuple[int, ...]
    seconds: float
    warm_up_s: float


FULL: Final = Extent((30.0, 60.0), (1, 9, 16), 10.0, 2.0)
QUICK: Final = Extent((60.0,), (1,), 3.0, 0.5)


def bench_bridge(
    transports: Sequence[str] = (),
    rates: Sequence[float] = (),
    viewers: Sequence[int] = (),
    seconds: float | None = None,
    quick: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure transports one after the other, and the naive way in the same run.

    A recorded walk is handed to a real gateway at each rate; viewers in another process stamp the
    last packet of each frame, and with `quick` off a headless Chromium says when it showed them, if
    there is one; `displayed_in` names it, or says why there is none. `runs` has every case; under
    its own name each transport has its case with one viewer (or the fewest) at the highest rate.

    Raises:
        ConfigError: a transport is unknown.
        StartError: a process did not start, or no frame came.
    """
    extent = QUICK if quick else FULL
    names = [*transports, NAIVE] if transports else [*TRANSPORTS]
    names = list(dict.fromkeys(names))
    check_names(names, TRANSPORTS, "transport")
    extent = Extent(
        tuple(rates) or extent.rates,
        tuple(sorted(set(viewers))) or extent.viewers,
        seconds or extent.seconds,
        extent.warm_up_s,
    )
    load = os.getloadavg()[0]  # of others: a busy machine measures itself
    browser, displayed_in = browser_or_why(quick)
    shown: dict[tuple[str, float], dict[str, Any]] = {}
    runs: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wb-bench-")))
        progress("recording a walk", 0.0)
        walk = folder / "walk.i420"
        width, height = record(walk)
        receiver = stack.enter_context(_running("viewers"))
        total = len(names) * len(extent.rates) * len(extent.viewers)
        for fps in extent.rates:
            scene = {"walk": str(walk), "width": width, "height": height, "fps": fps}
            for name in names:
                with _server(name, folder, scene) as (urls, pid):
                    url = urls[TRANSPORTS[name].scheme]
                    if browser is not None and (name == NAIVE or name in VIDEO):
                        progress(f"{name}, {fps:g} frames/s, browser", len(runs) / total)
                        shown[name, fps] = _shown(browser, name, urls["http"], extent)
                    for count in extent.viewers:
                        text = f"{name}, {fps:g} frames/s, viewers: {count}"
                        progress(text, len(runs) / total)
                        case = _case(receiver, name, url, pid, count, extent)
                        run = {"transport": name, "fps": fps, "viewers": count, **case}
                        if count == 1 and (name, fps) in shown:
                            run |= shown[name, fps]
                        runs.append(run)
    return {
        "environment": describe(),
        "load_average": round(load, 2),
        "content": f"recorded walk, {width}x{height}",
        "displayed_in": displayed_in,
        **{name: _headline(runs, name) for name in names},
        "times_naive_p99": _times_naive(runs, names),
        "runs": runs,
    }


def browser_or_why(quick: bool) -> tuple[str | None, str]:
    """Return the browser that shows the frames, and its name or why there is none."""
    if quick:
        return None, "no browser: --quick leaves it out"
    try:
        browser = find_browser()
    except ConfigError as error:
        return None, f"no browser: {error.message}; {error.remedy}"
    return browser, browser


def check_names(names: Iterable[str], known: Collection[str], what: str) -> None:
    """Raise ConfigError for a name that is unknown; `what` is named as the option is."""
    for name in names:
        if name not in known:
            raise ConfigError(
                f"there is no such {what}",
                expected=", ".join(known),
                got=name,
                remedy=f"leave --{what} out to measure all of them",
            )


def _headline(runs: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    mine = [run for run in runs if run["transport"] == name]
    best = max(mine, key=lambda run: (-run["viewers"], run["fps"]))
    return {key: value for key, value in best.items() if key != "transport"}


def _times_naive(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Return how many times longer the naive way takes at p99, one viewer at the highest rate."""
    naive = _headline(runs, NAIVE)["handed_to_received_ms"]["p99"]
    ours = {n: _headline(runs, n)["handed_to_received_ms"]["p99"] for n in names if n != NAIVE}
    return {name: round(naive / p99, 2) for name, p99 in ours.items()}


def _case(
    receiver: _Process, name: str, url: str, pid: int, count: int, extent: Extent
) -> dict[str, Any]:
    request = {
        "transport": name,
        "url": url,
        "server": pid,
        "viewers": count,
        "seconds": extent.seconds,
        "warm_up_s": extent.warm_up_s,
    }
    answer = receiver.ask(request)
    latencies = answer.get("latencies")
    if not latencies:
        got = answer.get("error", "none")
        raise StartError("nothing could be measured", expected=f"frames by {name}", got=got)
    return {
        "handed_to_received_ms": _rounded(latencies),
        "frames": answer["frames"],
        "frames_per_second_each": round(answer["frames"] / extent.seconds / count, 2),
        "server_cpu_percent": round(100 * answer["cpu_share"], 1),
    }


def _shown(browser: str, name: str, url: str, extent: Extent) -> dict[str, Any]:
    """Return how long frames took to the screen of a browser, None if it showed none."""
    try:
        work = display(browser, name, url, extent.seconds, extent.warm_up_s)
        rows = asyncio.run(work)
    except AssertionError as error:  # as the browser's driver reports what a page did not do
        raise StartError("the browser showed nothing", got=str(error)[:500]) from error
    totals, *spans = zip(*rows, strict=True) if rows else [()]
    return {
        "handed_to_displayed_ms": _rounded(totals) if totals else None,
        "displayed_spans_ms": {n: _rounded(v) for n, v in zip(SPANS, spans, strict=False)},
    }


def _rounded(latencies: Sequence[float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in percentiles(latencies).items()}


# --- processes -----------------------------------------------------------------------------------


class _Process:
    """A process of the benchmark that answers in lines of JSON."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self._name = name
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write one line and return the answer. Raises StartError if the process ends instead."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `read` says what became of it
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return _parsed(self._process.stdout, self._name)


def _parsed(stream: IO[str], name: str) -> dict[str, Any]:
    line = stream.readline()
    if not line:
        raise StartError(
            f"the {name} of the benchmark ended",
            expected="a process that answers",
            got="its end; what it printed is above",
        )
    answer: dict[str, Any] = json.loads(line)
    return answer


@contextmanager
def _running(
    module: str, *arguments: str, fds: Sequence[int] = (), stderr: IO[str] | None = None
) -> Iterator[_Process]:
    """Run a module of this folder, or `worldbridge.bridge`, until the block ends."""
    name = module if module.startswith("worldbridge.") else f"{_MODULES}.{module}"
    # worldbridge.children ends it with us, whatever ends us
    process = subprocess.Popen(
        [sys.executable, "-m", "worldbridge.children", name, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, "WORLDBRIDGE_PARENT": str(os.getpid())},
        pass_fds=fds,
    )
    try:
        yield _Process(module, process)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def _server(name: str, folder: Path, scene: dict[str, Any]) -> Iterator[tuple[dict[str, str], int]]:
    """Yield the addresses, by scheme, and the process id of the server of a transport."""
    if name == NAIVE:
        with _running("naive", json.dumps(scene)) as process:
            yield {"http": f"tcp://127.0.0.1:{process.read()['port']}"}, process.pid
        return
    # a seat for whoever comes while the one of a browser that went is still kept
    with gateway_with_source(folder, {**scene, "seats": 2}, grace_s=0.5) as served:
        yield served


@contextmanager
def gateway_with_source(
    folder: Path, scene: dict[str, Any], log: IO[str] | None = None, **config: Any
) -> Iterator[tuple[dict[str, str], int]]:
    """Run a gateway and the source of its frames; yield its addresses and its process id.

    Args:
        folder: for sockets.
        scene: arguments of `source.play` but the endpoint.
        log: what the gateway writes there instead of on standard error.
        config: settings of the gateway.
    """
    endpoint, zmq_port = f"ipc://{folder}/link", _free_port()
    with ExitStack() as stack:
        reader, writer = os.pipe()
        settings = {
            "endpoint": endpoint,
            "port": 0,
            "zmq_port": zmq_port,
            "ready_fd": writer,
            "log_level": "error",
            **config,
        }
        module, text = "worldbridge.bridge", json.dumps(settings)
        gateway = stack.enter_context(_running(module, text, fds=(writer,), stderr=log))
        os.close(writer)
        with os.fdopen(reader) as pipe:
            address = _parsed(pipe, "gateway")
        stack.enter_context(_running("source", json.dumps({"endpoint": endpoint, **scene})))
        yield {"http": address["url"], "tcp": f"tcp://127.0.0.1:{zmq_port}"}, gateway.pid


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
