"""`worldbridge bench`: kernels, decode modes, concurrent sessions, the memory and the bridge."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from worldbridge.cli.console import (
    Device,
    Json,
    Quick,
    check_out,
    print_result,
    progress_scope,
    write_out,
)
from worldbridge.errors import ConfigError, StartError
from worldbridge.runtime.config import MODES

__all__ = ["bench"]

bench = typer.Typer(
    help="Measure kernels, decoding, worlds, players and the bridge.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class WeightDtype(StrEnum):
    """Types that weights can be read in."""

    bf16 = "bf16"
    fp8 = "fp8"
    int8 = "int8"


World = Annotated[
    str | None, typer.Option(help="World to measure: a name or a directory.  [default: embedded]")
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Random weights in published shapes, such as cosmos-4b-320p, instead of a world."
    ),
]
Dtype = Annotated[
    WeightDtype | None, typer.Option(help="Read the weights in this type; fp8 and int8 need a GPU.")
]
Acceptance = Annotated[
    list[float] | None,
    typer.Option(
        min=1,
        help="Also report the frames/s of drafting modes at this many tokens per forward pass, "
        "computed from measured times: frames of a latent / (tokens of a latent / tokens per "
        "forward x p50 ms per forward + ms of everything else in a latent). Repeatable.",
    ),
]
On = Annotated[Device, typer.Option(help="Where to run.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=256, help="CPU threads.  [default: all cores]")
]
Out = Annotated[Path | None, typer.Option(help="File to write the JSON to as well.")]


@bench.command()
def decode(
    world: World = None,
    preset: Preset = None,
    device: On = Device.cpu,
    weight_dtype: Dtype = None,
    context_latents: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Context latents of each measured latent.  [default: a world's context fills and "
            "slides as in play, a preset's is full]",
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="Decode mode to measure besides sequential; repeatable.  [default: all]"),
    ] = None,
    width: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Draft tokens per forward pass of mode jacobi; repeatable, each is measured "
            "separately.  [default: 16]",
        ),
    ] = None,
    row_lag: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Columns that each row runs behind the row above in mode diagonal; repeatable, "
            "each is measured separately.  [default: 2]",
        ),
    ] = None,
    acceptance: Acceptance = None,
    threads: Threads = None,
    quick: Quick = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Compare the decode modes of a world.

    Every mode decodes the same stream. Shows the time of a forward pass, forward passes and
    tokens per latent, frames per second, the share of the machine's memory bandwidth that is
    used, and whether the tokens equal those of sequential decoding. How many drafts are accepted
    is a property of the weights: with random weights, use --acceptance. The same run measures a
    baseline: on a CPU the model's own layers with one token per forward pass, on a GPU the
    published decoder, compiled and with CUDA graphs.
    --quick finishes within a minute on two cores with the embedded world.
    """
    from worldbridge.benchmarks.decode.bench import bench_decode
    from worldbridge.cli.bench_tables import decode_table

    def work(progress: Any) -> dict[str, Any]:
        return bench_decode(
            _world_name(world, preset),
            preset=preset,
            device=device,
            weights=None if weight_dtype is None else weight_dtype.value,
            context=context_latents,
            only=mode or (),
            widths=width or (),
            diagonals=row_lag or (),
            acceptances=acceptance or (),
            quick=quick,
            threads=threads or _cores(),
            progress=progress,
        )

    _report(work, decode_table, out, as_json)


@bench.command()
def players(
    world: World = None,
    preset: Preset = None,
    most: Annotated[int, typer.Option(min=1, max=64, help="Measure 1 to this many players.")] = 4,
    mode: Annotated[
        str, typer.Option(help=f"How tokens are decoded: {', '.join(MODES)}.")
    ] = "auto",
    row_lag: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --mode diagonal: columns that a row runs behind the row above."
        ),
    ] = None,
    weight_dtype: Dtype = None,
    acceptance: Acceptance = None,
    threads: Threads = None,
    device: On = Device.cpu,
    quick: Quick = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find how many players a world serves at its frame rate.

    Steps one, two and more sessions together, detokenizer included, and reports the cost of one
    more player. Whole latents are timed; a step is one frame of every player.
    --quick finishes within a minute on two cores.
    """
    from worldbridge.benchmarks.decode.players import bench_players
    from worldbridge.cli.bench_tables import players_table

    def work(progress: Any) -> dict[str, Any]:
        return bench_players(
            _world_name(world, preset),
            preset=preset,
            most=most,
            quick=quick,
            threads=threads or _cores(),
            device=device,
            mode=mode,
            diagonal=row_lag,
            weights=None if weight_dtype is None else weight_dtype.value,
            acceptances=acceptance or (),
            progress=progress,
        )

    _report(work, players_table, out, as_json)


@bench.command()
def world(
    world: Annotated[
        str, typer.Option(help="World with a memory: a name or a directory.")
    ] = "guided",
    threads: Annotated[int, typer.Option(min=1, max=256, help="CPU threads.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="SVG file to draw the rates to.")] = None,
    quick: Quick = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Time a frame of a world with a memory by how much is new.

    Turns the camera until 0, 5, 10, 30 and 100 % of the blocks are new, and repeats each turn from
    the same saved state. Shows wall-clock time, and processor time, which other work on the machine
    hardly changes.
    """
    from worldbridge.benchmarks.world import bench_world, plot_svg
    from worldbridge.cli.bench_tables import world_table

    if plot is not None:
        check_out(plot)

    def work(progress: Any) -> dict[str, Any]:
        return bench_world(world, quick, threads, progress)

    result = _report(work, world_table, out, as_json)
    if plot is not None:
        plot_svg(result, plot)


class MemoryBackend(StrEnum):
    """Implementations of the spatial memory; all give the same bits."""

    torch = "torch"
    numba = "numba"
    triton = "triton"


@bench.command()
def memory(
    backend: Annotated[
        MemoryBackend | None,
        typer.Option(help="Implementation to measure.  [default: numba; on a GPU, triton]"),
    ] = None,
    device: On = Device.cpu,
    quick: Quick = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Time the spatial memory and measure how well places come back.

    Walks three routes through held-out scenes of every theme with the renderer's colour and depth:
    24 frames left and back, a full circle, and 2 m ahead and back. Shows the PSNR of the first
    frame against what the memory shows there afterwards. Runs on one thread.
    --quick measures two themes.
    """
    from worldbridge.benchmarks.memory import bench_memory
    from worldbridge.cli.bench_tables import memory_table

    def work(progress: Any) -> dict[str, Any]:
        return bench_memory(
            None if backend is None else backend.value, device.value, quick, progress
        )

    _report(work, memory_table, out, as_json)


@bench.command()
def bridge(
    transport: Annotated[
        list[str] | None,
        typer.Option(help="Transport to measure besides naive; repeatable.  [default: all]"),
    ] = None,
    fps: Annotated[
        list[float] | None,
        typer.Option(min=1, max=240, help="Frames per second; repeatable.  [default: 30 and 60]"),
    ] = None,
    viewers: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=64,
            help="Viewers at the same time: a player and spectators; repeatable.  "
            "[default: 1, 9 and 16]",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.5, max=3600, help="How long each case is measured.  [default: 10]"),
    ] = None,
    quick: Quick = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure how long frames take through the gateway, by transport.

    Hands a recorded walk to a real gateway and stamps the last packet of each frame in another
    process; in a checkout with a Chromium, also when its page showed them. The same run measures
    the naive way: a FIFO that is polled every 10 ms, and a stock encoder for each viewer.
    --quick measures one viewer at 60 frames/s without a browser, and finishes within a minute on
    two cores.
    """
    from worldbridge.benchmarks.bridge.bench import bench_bridge
    from worldbridge.cli.bench_tables import bridge_table

    def work(progress: Any) -> dict[str, Any]:
        return bench_bridge(
            transport or (), fps or (), viewers or (), seconds, quick=quick, progress=progress
        )

    _report(work, bridge_table, out, as_json)


class Video(StrEnum):
    """Ways of frames to the page, as its address has them."""

    webrtc = "webrtc"
    h264 = "h264"
    jpeg = "jpeg"


@bench.command()
def network(
    line: Annotated[
        list[str] | None,
        typer.Option(help="Line to play over, such as 600_kbit; repeatable.  [default: all]"),
    ] = None,
    video: Annotated[
        Video, typer.Option(help="Way of the frames: WebRTC, or in WebSocket messages.")
    ] = Video.webrtc,
    fps: Annotated[float, typer.Option(min=1, max=240, help="Frames per second of the play.")] = 30,
    seconds: Annotated[
        float | None,
        typer.Option(min=1, max=3600, help="How long each case is measured.  [default: 20]"),
    ] = None,
    quick: Quick = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure inputs and play over poor networks.

    Inputs cross a line with 2 % loss and 20 ms each way, as clients send them and, in the same run,
    on an ordered and reliable channel. In a checkout with a Chromium its page plays over each line:
    10 % loss, 200 ms, 2 Mbit/s with 1 % loss, 600 kbit/s with 3 % loss, 300 kbit/s.
    Then the line is dark for 2 s, and the time to the next new frame is measured.
    --quick measures the inputs alone.
    """
    from worldbridge.benchmarks.bridge.network import bench_network
    from worldbridge.cli.bench_tables import network_tables

    def work(progress: Any) -> dict[str, Any]:
        return bench_network(line or (), fps, seconds, video.value, quick=quick, progress=progress)

    _report(work, network_tables, out, as_json)


@bench.command()
def kernels(
    device: Annotated[
        Device | None,
        typer.Option(help="Where to run.  [default: cuda; with --check, cuda if there is a GPU]"),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Only compare every kernel with its reference at small shapes. Without a GPU this "
            "runs in Triton's interpreter and takes a minute.",
        ),
    ] = False,
    kernel: Annotated[
        list[str] | None, typer.Option(help="Kernel to measure; repeatable.  [default: all]")
    ] = None,
    quick: Quick = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Time every kernel at the shapes of the 4B model. Needs a GPU, except for --check.

    Shows beside each kernel the time that torch needs for the same work in the same run, the
    share of the measured and of the datasheet's memory bandwidth, and the error against float64.

    Exit code 1: --check found an error beyond its limit.
    """
    from worldbridge.cli.bench_tables import kernel_checks_table, kernels_table

    _check_triton()
    if check and (device is Device.cpu or (device is None and not _has_gpu())):
        device = Device.cpu
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

    def work(progress: Any) -> dict[str, Any]:
        from worldbridge.benchmarks.kernels.bench import bench_kernels, check_kernels

        place, only = device or Device.cuda, kernel or ()
        if check:
            return check_kernels(place, only=only, progress=progress)
        return bench_kernels(place, only=only, quick=quick, progress=progress)

    result = _report(work, kernel_checks_table if check else kernels_table, out, as_json)
    if check and not result["within_limits"]:
        wrong = sum(not case["within_limit"] for case in result["cases"])
        raise StartError(
            "kernels and references disagree",
            expected="errors within the limits",
            got=f"{wrong} of {len(result['cases'])} cases beyond them",
            remedy="see the cases above",
        )


def _check_triton() -> None:
    if importlib.util.find_spec("triton") is None:
        raise ConfigError(
            "the kernels are written in Triton, which is not installed",
            expected="the package triton",
            got="none",
            remedy="pip install 'worldbridge[gpu]'",
        )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _world_name(world: str | None, preset: str | None) -> str:
    """Return the world's name. Raises typer.BadParameter if a preset is given, too."""
    if world is not None and preset is not None:
        raise typer.BadParameter(
            f"expected a world or a preset, got --world {world} and --preset {preset}; leave one "
            "out"
        )
    return "embedded" if world is None else world


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _report(
    work: Callable[[Any], dict[str, Any]],
    as_table: Callable[[dict[str, Any]], Any],
    out: Path | None,
    as_json: bool,
) -> dict[str, Any]:
    """Measure, write the result to `out` and print it. `out` is checked before the measurement."""
    if out is not None:
        check_out(out, "--out")
    with progress_scope() as progress:
        result = work(progress)
    if out is not None:
        write_out(out, json.dumps(result, indent=1) + "\n")
    print_result(result, as_table, as_json=as_json)
    return result
