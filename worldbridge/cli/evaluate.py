"""`worldbridge eval`: judge a world on scenes it was never trained on."""

from __future__ import annotations

from typing import Annotated

import typer

from worldbridge.cli.console import Json, Quick, named_values, print_result, progress_scope

__all__ = ["evaluate"]


def evaluate(
    world: Annotated[str, typer.Option(help="World to judge: a name or a directory.")] = "embedded",
    seed: Annotated[int, typer.Option(min=0, help="Selects the scenes and the rollouts.")] = 0,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Judge a world on scenes it was never trained on.

    Shows the PSNR of the tokenizer and of the next frame (beside that of copying the last
    frame), how well the world follows yaw and movement, and how sharp and lively it is after 60
    seconds of free play. --quick finishes within a minute on two cores.
    """
    from worldbridge.benchmarks.quality.evaluate import evaluate as run_evaluation

    with progress_scope() as progress:
        result = run_evaluation(world, quick=quick, seed=seed, progress=progress)
    print_result(result, lambda data: named_values(f"Evaluation of {world}", data), as_json=as_json)
