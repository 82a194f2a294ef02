"""`worldbridge bench`: how fast kernels, decoding and many players are on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from worldbridge.cli.errors import Json, Quick, watched
from worldbridge.config import MODES
from worldbridge.errors import ConfigError, StartError

__all__ = ["bench"]

bench = typer.Typer(
    help="Measure the speed of this machine: kernels, decode modes, players.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


class Weights(StrEnum):
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
ReadAs = Annotated[
    Weights | None, typer.Option(help="Read the weights in this type (fp8 and int8: on a GPU).")
]
Acceptance = Annotated[
    list[float] | None,
    typer.Option(
        min=1,
        help="Also tell the frames/s of modes that guess at so many tokens per forward, from the "
        "time of a forward that is measured: frames of a latent / (tokens of a latent / tokens per "
        "forward x ms per forward, p50, + ms of all else that a latent takes). Repeatable.",
    ),
]
On = Annotated[Device, typer.Option(help="Where to run.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=256, help="CPU threads; without it, all cores.")
]
Out = Annotated[Path | None, typer.Option(help="File that the JSON is written to as well.")]


@bench.command()
def decode(
    world: World = None,
    preset: Preset = None,
    device: On = Device.cpu,
    weights: ReadAs = None,
    context: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Latents that each measured one is drawn behind; without it, the window of a "
            "world fills and slides as in play, and that of a preset is full.",
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="Measure this mode besides sequential; repeatable. All without it."),
    ] = None,
    width: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Tokens that a forward of mode jacobi feeds; repeatable, each is measured by "
            "itself.  [default: 16]",
        ),
    ] = None,
    diagonal: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="How far a row is ahead of the next one in mode diagonal; repeatable, each is "
            "measured by itself.  [default: 2]",
        ),
    ] = None,
    acceptance: Acceptance = None,
    threads: Threads = None,
    quick: Quick = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Compare the decode modes of a world.

    Every mode draws the same stream. Reports the time of a forward, forwards and tokens per
    latent, frames per second, what share of the machine's memory bandwidth is used, and whether
    the tokens are those of sequential decoding. How often guesses are right is a property of the
    weights: with random ones, use --acceptance. In the same run the plain way is measured: on a
    CPU the model's own layers, one token per forward; on a GPU the published decoder's way,
    compiled and recorded.
    --quick ends within a minute on two cores (of the embedded world).
    """
    from worldbridge.benchmarks.decode.bench import bench_decode
    from worldbridge.cli.decode_table import decode_table

    def work(progress: Any) -> dict[str, Any]:
        return bench_decode(
            _only_one(world, preset),
            preset=preset,
            device=device,
            weights=None if weights is None else weights.value,
            context=context,
            only=mode or (),
            widths=width or (),
            diagonals=diagonal or (),
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
    diagonal: Annotated[
        int | None,
        typer.Option(min=1, help="With --mode diagonal: how far a row is ahead of the next one."),
    ] = None,
    weights: ReadAs = None,
    acceptance: Acceptance = None,
    threads: Threads = None,
    device: On = Device.cpu,
    quick: Quick = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find how many players a world carries at its frame rate.

    Steps one, two and more sessions together, pixels included, and tells what one more costs. Whole
    latents are timed; a step is one picture of every player.
    --quick ends within a minute on two cores.
    """
    from worldbridge.benchmarks.decode.players import bench_players
    from worldbridge.cli.tables import players_table

    def work(progress: Any) -> dict[str, Any]:
        return bench_players(
            _only_one(world, preset),
            preset=preset,
            most=most,
            quick=quick,
            threads=threads or _cores(),
            device=device,
            mode=mode,
            diagonal=diagonal,
            weights=None if weights is None else weights.value,
            acceptances=acceptance or (),
            progress=progress,
        )

    _report(work, players_table, out, as_json)


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
            help="Only compare every kernel with its reference, at small shapes; without a GPU in "
            "Triton's interpreter, in a minute.",
        ),
    ] = False,
    kernel: Annotated[
        list[str] | None, typer.Option(help="Only this kernel; repeatable. All without it.")
    ] = None,
    quick: Quick = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Time every kernel at the shapes of the 4B model.

    Beside each stands what torch needs for the same in the same run, what share of the measured
    and of the datasheet's memory bandwidth is reached, and the error against float64. Kernels can
    be timed on a GPU only.

    Exit code 1 when --check finds an error beyond its limit.
    """
    from worldbridge.cli.tables import kernel_checks_table, kernels_table

    _check_triton()
    if check and (device is Device.cpu or (device is None and not _has_gpu())):
        device = Device.cpu
        os.environ["TRITON_INTERPRET"] = "1"  # is read when triton is imported, so not later

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


def _only_one(world: str | None, preset: str | None) -> str:
    """The world's name. Raises typer.BadParameter when a preset is given, too."""
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
    from rich.console import Console

    _check_out(out)
    with watched() as progress:
        result = work(progress)
    if out is not None:
        try:
            out.write_text(json.dumps(result, indent=1) + "\n")
        except OSError as error:
            raise StartError("the result cannot be written", got=str(error)) from error
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(as_table(result))
    return result


def _check_out(out: Path | None) -> None:
    """Before a long measurement, not after it."""
    if out is not None and not out.parent.is_dir():
        raise ConfigError(
            "the result cannot be written",
            expected="--out in a directory that exists",
            got=str(out),
            remedy=f"create {out.parent} first",
        )
    if out is not None and (out.is_dir() or not os.access(_first_that_is(out), os.W_OK)):
        raise ConfigError(
            "the result cannot be written",
            expected="--out names a file that this user may write",
            got=f"{out}, {'a directory' if out.is_dir() else 'which is read-only'}",
            remedy="choose another file",
        )


def _first_that_is(out: Path) -> Path:
    return out if out.exists() else out.parent
