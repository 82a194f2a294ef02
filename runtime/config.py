"""Settings of a worker: which world it serves, and how. Cheap to import: no PyTorch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from worldbridge.runtime.errors import DetokenizerError
from worldbridge.settings import (
    DEFAULT_ENDPOINT,
    LOG_FORMAT_HELP,
    MAX_SEATS,
    check,
    check_fields,
    setting,
)
from worldbridge.stderr import LogFormat

__all__ = [
    "COMPILED",
    "EAGER",
    "check_detokenizer",
    "MODES",
    "WEIGHT_DTYPES",
    "DecodeMode",
    "WeightDtype",
    "WorkerConfig",
]

DecodeMode = Literal["auto", "sequential", "jacobi", "medusa", "diagonal"]
MODES: tuple[DecodeMode, ...] = get_args(DecodeMode)
# "model": as they are; the others have one byte, see `decoding/executors/cuda/weights.py`
WeightDtype = Literal["model", "fp8", "int8"]
WEIGHT_DTYPES: tuple[WeightDtype, ...] = get_args(WeightDtype)
EAGER = "eager"  # PyTorch, operation by operation
COMPILED = "compiled"  # torch.compile; anything else is a folder of `worldbridge export tensorrt`


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Raises ConfigError, a ValueError, for a value out of its range.

    `mode` None is the world's usual one, which is not measured. `autotune_cache` is the file that
    keeps a measured mode for the workers that follow. A worker leaves when the gateway has been
    silent for `silence_s` seconds.
    """

    world: str = setting(
        "guided", "World to serve: guided, embedded, procedural, or a directory.", low=1
    )
    seats: int | None = setting(
        None,
        "Players at once.  [default: as many as this machine serves, as measured]",
        low=1,
        high=MAX_SEATS,
    )
    threads: int | None = setting(
        None, "CPU threads of the model.  [default: all cores]", low=1, high=1024
    )
    device: Literal["cpu", "cuda"] = setting(
        "cpu", "Where the model computes: cpu, or cuda for an NVIDIA GPU."
    )
    mode: DecodeMode | None = setting(
        "auto",
        "How tokens are decoded. auto measures at the start and uses the fastest of the modes that "
        "sample exactly the tokens of sequential decoding.",
    )
    row_lag: int | None = setting(
        None, "With --mode diagonal: columns that each row runs behind the row above.", low=1
    )
    weight_dtype: WeightDtype = setting(
        "model",
        "How a Cosmos world's weights are read on a GPU. model samples the model's own tokens; "
        "fp8 and int8 read one byte per weight and sample other tokens.",
    )
    detokenizer: str = setting(
        EAGER,
        "How a GPU detokenizes a Cosmos world's latents: eager, compiled (by torch.compile, a "
        "minute or two at the first start), or a folder of `worldbridge export tensorrt`.",
        low=1,
    )
    prompt_embeddings: str | None = setting(
        None,
        "File with the T5 embeddings of a text, for worlds that take one (docs/conditioning.md).",
        low=1,
    )
    prompt: str | None = setting(None, "Text for worlds that take one; needs --t5.", low=1)
    t5: str | None = setting(None, "Local folder of the T5 encoder that embeds --prompt.", low=1)
    log_format: LogFormat = setting("text", LOG_FORMAT_HELP)
    fps: float | None = setting(
        None,
        "Frames per second of the procedural world; other worlds have their own.  [default: 30]",
        low=1,
        high=240,
    )
    endpoint: str = setting(DEFAULT_ENDPOINT, low=1)
    name: str = setting("worker", low=1)
    autotune_cache: str | None = setting(None, low=1)
    silence_s: float = setting(10.0, low=0.1)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.row_lag is not None:
            expected = "a positive number, with mode diagonal"
            check(self.mode == "diagonal", "row_lag", expected, self.row_lag)
        file, alone = self.prompt_embeddings, self.prompt is None and self.t5 is None
        check(file is None or alone, "prompt_embeddings", "no prompt and no t5 beside it", file)
        check(self.prompt is None or self.t5 is not None, "prompt", "t5 beside it", self.prompt)
        check(self.t5 is None or self.prompt is not None, "t5", "a prompt beside it", self.t5)

    @property
    def model_threads(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))


def check_detokenizer(detokenizer: str, manifest: dict[str, Any], device: str) -> None:
    """Check by its world.json that a world's latents can be detokenized so.

    Raises DetokenizerError.
    """
    if detokenizer == EAGER:
        return
    if detokenizer != COMPILED and not (Path(detokenizer) / "export.json").is_file():
        raise DetokenizerError(
            "there is no such detokenizer",
            expected=f"{EAGER}, {COMPILED}, or a folder made by `worldbridge export tensorrt`",
            got=repr(detokenizer),
            remedy="choose one of these, or leave --detokenizer out",
        )
    if manifest["transformer"].get("grid") is not None:
        raise DetokenizerError(
            "this world has no choice of detokenizers",
            expected="a converted Cosmos world",
            got="one with a token grid",
            remedy="leave --detokenizer out",
        )
    if device != "cuda":
        raise DetokenizerError(
            "a CPU has one detokenizer only",
            expected="--device cuda",
            got=f"the device {device}",
            remedy="add --device cuda, or leave --detokenizer out",
        )
