"""`worldbridge train`: train a small world on recorded play."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from worldbridge.cli.console import Quick, progress_scope

__all__ = ["train"]


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


train = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@train.callback(invoke_without_command=True)
def train_embedded(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="Directory to write the finished world to.  [required]")
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Training time of all stages together.")
    ] = 100.0,
    frames: Annotated[
        int | None,
        typer.Option(min=64, help="Frames of recorded play.  [default: depends on --minutes]"),
    ] = None,
    stage: Annotated[Stage, typer.Option(help="Part of the recipe to run.")] = Stage.all,
    resume: Annotated[
        Path | None, typer.Option(help="Directory of an earlier run to continue.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    quick: Quick = False,
) -> None:
    """Train a small world of your own.

    Without a command, trains a world like `embedded`: renders play in the procedural worlds, trains
    the video tokenizer, the transformer and its Medusa heads, and writes a directory that `serve
    --world` accepts. --stage heads adds heads to the result of an earlier run. Two CPU cores train
    a usable world in under two hours.
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise typer.BadParameter("expected a directory", param_hint="--out")
    from worldbridge.models.training.cli import train as run_training

    with progress_scope() as progress:
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


Out = Annotated[Path, typer.Option(help="Directory of the run.")]
Tokenizer = Annotated[
    Path, typer.Option(help="tokenizer.pt of `train tokenizer`, or a world's directory.")
]
Scenes = Annotated[int, typer.Option(min=10, help="Scenes to render, 4 MB each.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps.")]
Seed = Annotated[int, typer.Option(help="Seed of the training.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads to use.")]
Nice = Annotated[
    int, typer.Option(min=0, max=19, help="Priority, as of nice(1): 19 gives way to all others.")
]
Recorded = Annotated[
    list[Path] | None,
    typer.Option(
        help="Tar shard of recorded play to train on, instead of play in rendered scenes; "
        "repeatable. docs/guided_world.md has the format."
    ),
]
Start = Annotated[
    Path | None, typer.Option(help="World whose weights the run begins with, such as OUT/world.")
]


@train.command("tokenizer")
def train_guided_tokenizer(
    out: Out,
    scenes: Scenes = 1_120,
    steps: Steps = 6_000,
    recorded: Recorded = None,
    start: Start = None,
    seed: Seed = 1,
    threads: Threads = 1,
    nice: Nice = 10,
) -> None:
    """Train the tokenizer of a world with a spatial memory.

    Renders frames with depth and trains on them. An interrupted run continues with the same
    command; OUT/log.jsonl, TensorBoard on OUT and OUT/sheet-*.png show how it goes. The result is
    OUT/tokenizer.pt.
    """
    import os
    from dataclasses import replace

    import torch

    from worldbridge.models.guided.config import GuidedConfig
    from worldbridge.models.training.guided.frame_pool import write_pools, write_recorded_pools
    from worldbridge.models.training.guided.run import require_memory
    from worldbridge.models.training.guided.train_tokenizer import FramePool, TokenizerRecipe
    from worldbridge.models.training.guided.train_tokenizer import train as run_training
    from worldbridge.models.training.guided.world_stages import load_guided_tokenizer

    with progress_scope() as progress:
        require_memory()
        os.nice(nice)
        torch.set_num_threads(threads)
        recipe = TokenizerRecipe(steps=steps, seed=seed)
        weights = None
        if start is not None:
            weights = load_guided_tokenizer(start).state_dict()
            # Its codes are in use: they are rounded from the first step.
            recipe = replace(recipe, rounding_from=0.0)
        size = GuidedConfig()
        known, held_out = (
            write_recorded_pools(out / "frames", recorded, size.height, size.width, progress)
            if recorded
            else write_pools(out / "frames", scenes, progress)
        )
        pools = FramePool(known), FramePool(held_out)
        run_training(*pools, recipe, out, weights, progress=progress)
    print(f"finished: {out / 'tokenizer.pt'}  (next: worldbridge train world)")


@train.command("decoder")
def refine_guided_decoder(
    out: Out,
    tokenizer: Tokenizer,
    scenes: Scenes = 1_120,
    steps: Steps = 6_000,
    seed: Seed = 1,
    threads: Threads = 1,
    nice: Nice = 10,
) -> None:
    """Refine how a world with a spatial memory draws.

    The decoder learns to draw from codes that are a little off, beside what it drew before. Codes
    stay what they are, so the world's transformer stays valid. An interrupted run continues with
    the same command. The result is OUT/tokenizer.pt and, where --tokenizer is a world, OUT/world
    with its transformer.
    """
    import os

    import torch

    from worldbridge.models.guided.checkpoint import load_guided_world, save_guided_world
    from worldbridge.models.training.guided.frame_pool import write_pools
    from worldbridge.models.training.guided.refine import RefineRecipe, refine
    from worldbridge.models.training.guided.run import bfloat16_pays, require_memory
    from worldbridge.models.training.guided.train_tokenizer import FramePool
    from worldbridge.models.training.guided.world_stages import load_guided_tokenizer

    with progress_scope() as progress:
        require_memory()
        os.nice(nice)
        torch.set_num_threads(threads)
        network = load_guided_tokenizer(tokenizer)
        known, _ = write_pools(out / "frames", scenes, progress)
        recipe = RefineRecipe(steps=steps, seed=seed, bfloat16=bfloat16_pays())
        refined = refine(network, FramePool(known), recipe, out, progress=progress)
        if tokenizer.is_dir():
            world = load_guided_world(tokenizer)
            save_guided_world(
                out / "world", refined, world.transformer, world.settings, world.depth
            )
    print(f"finished: {out / ('world' if tokenizer.is_dir() else 'tokenizer.pt')}")


@train.command("depth")
def train_depth_network(
    out: Out,
    world: Annotated[
        Path, typer.Option(help="World that gets the network; the result is OUT/world.")
    ],
    scenes: Scenes = 1_120,
    steps: Steps = 4_000,
    seed: Seed = 1,
    threads: Threads = 1,
    nice: Nice = 10,
) -> None:
    """Train the network that estimates depth in prompt frames.

    An interrupted run continues with the same command; OUT/log.jsonl has the errors on scenes that
    are never trained on.
    """
    import os

    import torch

    from worldbridge.models.guided.checkpoint import load_guided_world, save_guided_world
    from worldbridge.models.training.guided.frame_pool import write_pools
    from worldbridge.models.training.guided.run import bfloat16_pays, require_memory
    from worldbridge.models.training.guided.train_depth import DepthRecipe, train_depth
    from worldbridge.models.training.guided.train_tokenizer import FramePool

    with progress_scope() as progress:
        require_memory()
        os.nice(nice)
        torch.set_num_threads(threads)
        given = load_guided_world(world)
        known, held_out = write_pools(out / "frames", scenes, progress)
        recipe = DepthRecipe(steps=steps, seed=seed, bfloat16=bfloat16_pays())
        depth = train_depth(FramePool(known), FramePool(held_out), recipe, out, progress=progress)
        save_guided_world(out / "world", given.tokenizer, given.transformer, given.settings, depth)
    print(f"finished: {out / 'world'}  (play it: worldbridge serve --world {out / 'world'})")


@train.command("world")
def train_guided_world(
    out: Annotated[Path, typer.Option(help="Directory of the run and of the finished world.")],
    tokenizer: Tokenizer,
    clips: Annotated[int, typer.Option(min=30, help="Clips of play to record.")] = 1_300,
    frames: Annotated[int, typer.Option(min=2, help="Frames of a clip.")] = 24,
    steps: Steps = 17_000,
    seed: Annotated[int, typer.Option(help="Seed of the play and of the training.")] = 1,
    recorded: Recorded = None,
    start: Start = None,
    threads: Threads = 1,
    nice: Nice = 10,
) -> None:
    """Train the transformer of a world with a spatial memory.

    Records play, encodes it with the tokenizer, trains and writes OUT/world, which `serve --world`
    accepts. An interrupted run continues with the same command; OUT/log.jsonl, TensorBoard on OUT
    and OUT/sheet-*.png show how it goes.
    """
    import os

    from worldbridge.models.training.guided.run import bfloat16_pays, require_memory
    from worldbridge.models.training.guided.train_world import WorldRecipe
    from worldbridge.models.training.guided.world_stages import load_guided_tokenizer, make_world
    from worldbridge.models.training.play_clips import ClipPlan
    from worldbridge.models.training.recorded_play import import_play

    with progress_scope() as progress:
        require_memory()
        os.nice(nice)
        plan = ClipPlan(clips, frames, seed, clips_per_shard=10)
        if recorded:
            size = load_guided_tokenizer(tokenizer).config
            shape = frames, size.height, size.width
            plan = import_play(out / "clips", recorded, *shape, progress)
        recipe = WorldRecipe(steps=steps, seed=seed, bfloat16=bfloat16_pays())
        world = make_world(out, tokenizer, plan, recipe, threads, progress, start)
    print(f"finished: {world}  (play it: worldbridge serve --world {world})")
