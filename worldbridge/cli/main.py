"""The command line. Nothing heavy is imported before a command runs, so that --help is quick."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from worldbridge.cli.bench import bench
from worldbridge.cli.errors import Json, Quick, report_errors, resolution_of, watched
from worldbridge.cli.export import export
from worldbridge.config import TOKEN_VARIABLE, ServeConfig, load_config
from worldbridge.errors import StartError

__all__ = ["app", "main"]

app = typer.Typer(
    name="worldbridge",
    help="Real-time bridge between neural world models and game engines: a player's controls go "
    "in, video of a world that reacts to them comes out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

app.add_typer(bench, name="bench")
app.add_typer(export, name="export")


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Stage(StrEnum):
    """The parts of the training recipe, in their order."""

    all = "all"
    data = "data"
    tokenizer = "tokenizer"
    world = "world"
    heads = "heads"


class Slide(StrEnum):
    """What becomes of the latents that stay when the context of an endless stream is full."""

    reprefill = "reprefill"
    rotate = "rotate"


class Size(StrEnum):
    """The published Cosmos models."""

    auto = "auto"
    cosmos_4b = "4b"
    cosmos_5b = "5b"
    cosmos_12b = "12b"
    cosmos_13b = "13b"


def main() -> None:
    """Runs the command line; what a user can put right ends as one line, not as a traceback."""
    try:
        app()
    except StartError as error:
        print(f"worldbridge: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


# --- serve: its options are the fields of ServeConfig --------------------------------------------


def _serve_parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(ServeConfig)
    return [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _optional(hints[item.name]),
                typer.Option(
                    help=item.metadata["help"] + _shown(item.default), envvar=item.metadata["env"]
                ),
            ],
        )
        for item in fields(ServeConfig)
    ]


def _optional(hint: Any) -> Any:
    """None stands for "not given", so that a configuration file can speak."""
    return (list[get_args(hint)[0]] if get_origin(hint) is tuple else hint) | None  # type: ignore[misc]


def _shown(default: Any) -> str:
    return f" [default: {default}]" if default not in (None, ()) else ""


def _options_of_config(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces a command's **options by the fields of ServeConfig."""
    own = [
        p
        for p in inspect.signature(command, eval_str=True).parameters.values()
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    parameters = [*_serve_parameters(), *own]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return command


@app.command()
@_options_of_config
def serve(
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with these settings by name; options given here win."),
    ] = None,
    **options: Any,
) -> None:
    """Serve a world: the page, the network and the model.

    Prints one line "ready http://HOST:PORT" on standard output when the first frame can be
    served; everything else is told on standard error. Ctrl-C stops it.

    Exit codes: 2 a setting is wrong, 3 the port is in use, 4 there is no such world, 5 its
    weights are missing or damaged.
    """
    from worldbridge.supervisor import run

    run(load_config(config, options))


# --- measuring ---------------------------------------------------------------------------------


@app.command()
def profile(
    url: Annotated[str, typer.Argument(help="The server, as its ready line names it.")],
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long to play.")] = 20.0,
    token: Annotated[
        str | None, typer.Option(help="The server's secret, if it has one.", envvar=TOKEN_VARIABLE)
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option(help="Picture that the world begins with; repeatable, oldest first."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure where the time to the picture goes.

    Plays a scripted track of inputs and measures frames per second, input to photon and each of
    its legs, and dropped frames. "Photon" is the decoded picture in this
    process. Pictures come as JPEG over the WebSocket; the page measures WebRTC with a real screen.
    """
    from worldbridge.cli.profile import as_table, measure

    result = measure(url, seconds=seconds, token=token, pictures=picture or ())
    if as_json:
        print(json.dumps(result.as_json()))
    else:
        _print(as_table(result))


@app.command(name="eval")
def evaluate(
    world: Annotated[str, typer.Option(help="World to judge: a name or a directory.")] = "embedded",
    seed: Annotated[int, typer.Option(min=0, help="Chooses the scenes and the rollouts.")] = 0,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Judge a world on scenes it was never trained on.

    Reports the tokenizer's and the next frame's PSNR (beside that of copying the last frame), how
    well it follows yaw and movement, and how sharp and alive it is after 60 seconds of free play.
    --quick ends within a minute on two cores.
    """
    from worldbridge.benchmarks.quality.evaluate import evaluate as run_evaluation

    with watched() as progress:
        result = run_evaluation(world, quick=quick, seed=seed, progress=progress)
    if as_json:
        print(json.dumps(result))
        return
    from worldbridge.cli.tables import named_values

    _print(named_values(f"Evaluation of {world}", result))


# --- worlds --------------------------------------------------------------------------------------


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Directory that the finished world is written to.")],
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Time to spend on training, all stages together.")
    ] = 100.0,
    frames: Annotated[
        int | None, typer.Option(min=64, help="Frames of recorded play; without it, by the time.")
    ] = None,
    stage: Annotated[Stage, typer.Option(help="Which part of the recipe to run.")] = Stage.all,
    resume: Annotated[
        Path | None, typer.Option(help="Directory of an earlier run to go on from.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    quick: Quick = False,
) -> None:
    """Train a world on recorded play.

    The play is recorded in the procedural worlds; the result is a small world of your own.

    First renders the recordings, then trains the video tokenizer, the transformer and its Medusa
    heads, and writes a directory that serve --world takes. --stage heads gives heads to the result
    of an earlier run. Two CPU cores give a usable world in under two hours.
    """
    from worldbridge.cli.progress_bars import progress_bar
    from worldbridge.models.training.cli import train as run_training

    with report_errors(), progress_bar() as progress:
        run_training(
            out=out,
            minutes=minutes,
            frames=frames,
            stage=stage.value,
            resume=resume,
            device=device.value,
            quick=quick,
            progress=progress,
        )


@app.command()
def convert(
    path: Annotated[
        Path, typer.Argument(help="model.pt, its folder, or the shards of a tensor-parallel model.")
    ],
    out: Annotated[Path, typer.Option(help="Directory that the world is written to; a new one.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Folder with encoder.jit and decoder.jit, or an autoencoder.pt; without it, "
            "looked for beside PATH."
        ),
    ] = None,
    size: Annotated[Size, typer.Option(help="Which model it is; auto recognises it.")] = Size.auto,
    name: Annotated[
        str | None, typer.Option(help="What the world is called; without it, as the model.")
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(help="Height x width of the pictures, such as 320x512; published: 640x1024."),
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames per second of the world.")] = 25.0,
    context: Annotated[
        int | None,
        typer.Option(help="Latents that the world is drawn from; default: all it was trained on."),
    ] = None,
    slide: Annotated[
        Slide, typer.Option(help="How a full context moves on: fed again, or its keys rotated.")
    ] = Slide.reprefill,
) -> None:
    """Convert a published Cosmos checkpoint into a world.

    Reads the weights of an autoregressive model and its video tokenizer, verifies every name and
    shape, and writes a directory with a world.json and safetensors files. Code in the checkpoint
    is never run. It takes a few gigabytes of memory, whatever the size of the model.

    Exit code: 2 the source is not such a checkpoint, or the directory cannot be written. Then
    nothing is left behind.
    """
    from worldbridge.models.convert import convert as run_conversion

    with watched() as progress:
        run_conversion(
            path,
            out,
            size=None if size is Size.auto else size.value,
            tokenizer=tokenizer,
            name=name,
            resolution=None if resolution is None else resolution_of(resolution),
            frames_per_second=fps,
            context=context,
            slide=None if slide is Slide.reprefill else slide.value,
            progress=progress,
        )


@app.command()
def worlds(
    directories: Annotated[
        list[Path] | None,
        typer.Argument(help="Directories of worlds; without any, those known by name."),
    ] = None,
    load: Annotated[
        bool, typer.Option("--load", help="Load each, and tell seconds, parameters and memory.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the worlds that can be served.

    Also told is what each is conditioned on: actions, camera, text.
    """
    from worldbridge.cli.tables import load_table, worlds_table
    from worldbridge.runtime.worlds.load_report import measure_load
    from worldbridge.runtime.worlds.registry import list_worlds, spec_of

    given = directories or []
    if load and not given:
        raise typer.BadParameter("name the directories to load", param_hint="--load")
    with report_errors():
        found = [spec_of(path) for path in given] if given else list_worlds()
        loaded = [measure_load(path) for path in given] if load else []
    if as_json:
        told: dict[str, Any] = {"worlds": [asdict(world) for world in found]}
        if load:
            told["loaded"] = [asdict(report) for report in loaded]
        print(json.dumps(told))
        return
    _print(worlds_table(found))
    if load:
        _print(load_table(loaded))


@app.command()
def version() -> None:
    """Print the version of worldbridge and of what it runs on."""
    import platform
    from importlib.metadata import version as installed

    from worldbridge import __version__

    torch = installed("torch")
    print(f"worldbridge {__version__} (Python {platform.python_version()}, PyTorch {torch})")


def _print(table: Any) -> None:
    from rich.console import Console

    Console().print(table)


if __name__ == "__main__":
    main()
