"""What `bench decode` compares: every decode mode of a world, and the plain way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn

from worldbridge.benchmarks.decode.baselines import PlainRaster, PublishedRaster
from worldbridge.benchmarks.decode.streams import (
    PlainRasterStream,
    PlainWavefrontStream,
    RasterStream,
    Step,
    Stream,
    WavefrontStream,
    random_past,
    start_of,
)
from worldbridge.models.checkpoint import World
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.runtime.decoding import (
    DECODE_MODES,
    DecodeOptions,
    Decoder,
    Sampling,
    SavedTokens,
    is_exact,
    make_decoder,
)
from worldbridge.runtime.decoding.executors.cpu_packed import PackedLinear
from worldbridge.runtime.decoding.options import DEFAULT_JACOBI_WINDOW, DEFAULT_ROW_LAG, WeightDtype
from worldbridge.runtime.decoding.schedule import WavefrontSchedule
from worldbridge.runtime.worlds.conditioning import Conditioning

__all__ = [
    "Contender",
    "DRAFTING",
    "Lineup",
    "RasterLineup",
    "Subject",
    "WavefrontLineup",
    "check_acceptances",
    "check_choices",
    "precision_of",
]


DRAFTING = ("jacobi", "medusa")  # modes whose speed depends on how often guesses are right
_RASTER_ORDER = ("sequential", "jacobi", "medusa", "diagonal")
_MOST_ROWS = 64  # of one session in a step on a GPU, as `kernels/attention.py` has it


@dataclass(frozen=True, slots=True)
class Subject:
    """What is decoded, and how.

    `widths` are windows of mode jacobi, `diagonals` the steps of mode diagonal; each makes a
    contender of its own. Without any, the usual one does.
    """

    world: World
    device: torch.device
    precision: WeightDtype = "model"
    context: int | None = None  # latents behind which every measured one begins
    trained: bool | None = True  # None: the world does not say
    widths: tuple[int, ...] = ()
    diagonals: tuple[int, ...] = ()

    @property
    def config(self) -> TransformerConfig:
        return self.world.transformer.config


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of decoding."""

    name: str
    exact: bool
    weight_bytes: int  # that a forward reads of the weights
    pair_bytes: int  # of the keys and values of one token of the context
    rows: int | None  # that a forward runs, where it is always the same number
    how: Callable[[], str]  # asked for after it has run
    mode: str
    width: int | None = None  # of mode jacobi, where it can be chosen
    diagonal: int | None = None  # of mode diagonal
    least_forwards: int | None = None  # that draw a latent, of a mode that guesses


class Lineup(Protocol):
    """`sequential` comes first: the others are compared with what it draws."""

    names: list[str]
    plain: str  # which of them is the plain way
    latents: tuple[int, int]  # that are measured: quick, and not; of the plain way fewer

    def contender(self, name: str) -> tuple[Contender, Stream]:
        """Built when its turn comes, so that no two share the memory."""
        ...


def _modes(known: Sequence[str], world: World, only: Sequence[str]) -> list[str]:
    """`sequential`, then those of `only` that this world has. Raises ValueError for others."""
    has = [m for m in known if m != "auto" and (m != "medusa" or world.heads is not None)]
    for name in only:
        if name not in has:
            raise ValueError(
                f"this world has no decode mode {name!r}: expected one of {', '.join(has)}; choose "
                "one of these, or leave --mode out to measure all"
            )
    return ["sequential", *(m for m in has if m != "sequential" and (not only or m in only))]


@dataclass(frozen=True, slots=True)
class _Way:
    """A mode, and what can be chosen about it."""

    mode: str
    width: int = DEFAULT_JACOBI_WINDOW
    diagonal: int = DEFAULT_ROW_LAG

    @property
    def name(self) -> str:
        """The usual choice has the mode's own name."""
        if self.mode == "jacobi" and self.width != DEFAULT_JACOBI_WINDOW:
            return f"jacobi W={self.width}"
        if self.mode == "diagonal" and self.diagonal != DEFAULT_ROW_LAG:
            return f"diagonal k={self.diagonal}"
        return self.mode


def _ways(modes: Sequence[str], subject: Subject) -> dict[str, _Way]:
    """By their names. Raises ValueError for choices that no mode of these takes."""
    chosen = {"jacobi": ("--width", subject.widths), "diagonal": ("--row-lag", subject.diagonals)}
    for mode, (option, values) in chosen.items():
        if values and mode not in modes:
            raise ValueError(
                f"{option} belongs to mode {mode}: expected --mode {mode} beside it, got modes "
                f"{', '.join(modes)}; add it, or leave {option} out"
            )
    ways: list[_Way] = []
    for mode in modes:
        if mode == "jacobi":
            ways += [_Way(mode, width=w) for w in subject.widths or (DEFAULT_JACOBI_WINDOW,)]
        elif mode == "diagonal":
            ways += [_Way(mode, diagonal=k) for k in subject.diagonals or (DEFAULT_ROW_LAG,)]
        else:
            ways.append(_Way(mode))
    return {way.name: way for way in ways}


def _matrices(model: VideoTransformer) -> list[torch.Tensor]:
    return [m.weight for m in model.modules() if isinstance(m, nn.Linear)]


def _pair_bytes(config: TransformerConfig, itemsize: int) -> int:
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * itemsize


class WavefrontLineup:
    """Of a world with a token grid."""

    latents = (15, 90)
    plain = "plain"

    def __init__(self, subject: Subject, only: Sequence[str]) -> None:
        if subject.context is not None or subject.precision != "model":
            raise ValueError(
                "a world with a token grid is decoded behind its full window, and in its own "
                "precision: expected neither --context-latents nor --weight-dtype; leave them out"
            )
        if subject.widths or subject.diagonals:
            raise ValueError(
                "a world with a token grid is decoded along the diagonals that it was trained "
                "with, and with one window: expected neither --width nor --row-lag; leave them out"
            )
        self._world = subject.world
        self.names = [*_modes(DECODE_MODES, subject.world, only), self.plain]

    def contender(self, name: str) -> tuple[Contender, Stream]:
        model, config = self._world.transformer, self._world.transformer.config
        halved = name != self.plain and PackedLinear(torch.zeros(8, 8)).packed is not None
        weights = sum(w.numel() * (2 if halved else w.element_size()) for w in _matrices(model))
        stream: Stream
        if name == self.plain:
            stream = PlainWavefrontStream(self._world)
            how = "the model's layers as they are, in float32, one slot per forward, not recorded"
        else:
            stream = WavefrontStream(self._world, name)
            how = "fused, " + ("packed as float16" if halved else "float32")
            how += ", not recorded" if name == "sequential" else ", recorded"
            if name == "medusa":
                assert self._world.heads is not None
                weights += self._world.heads.weight.numel() * (2 if halved else 4)
        least = stream.least_forwards if isinstance(stream, WavefrontStream) else None
        contender = Contender(
            name,
            True,
            weights,
            _pair_bytes(config, 4),
            None,
            lambda: how,
            name,
            least_forwards=least if name in DRAFTING else None,
        )
        return contender, stream


class RasterLineup:
    """Of a model that is decoded in raster order."""

    latents = (3, 8)

    def __init__(self, subject: Subject, only: Sequence[str]) -> None:
        _check(subject)
        self._subject = subject
        self._sampling = Sampling(**subject.world.manifest["sampling"])
        self.plain = "published" if subject.device.type == "cuda" else "plain"
        self._ways = _ways(_modes(_RASTER_ORDER, subject.world, only), subject)
        self.names = [*self._ways, self.plain]
        self._conditioning, self._start = self._begin()
        self._steps: list[Step] = []  # what `sequential` drew its latents from

    def contender(self, name: str) -> tuple[Contender, Stream]:
        config = self._subject.config
        if name == self.plain:
            return self._plain()
        way = self._ways[name]
        decoder, weights, how = self._decoder(way)
        fixed = self._subject.context is not None
        stream = RasterStream(decoder, self._conditioning, self._start, fixed=fixed)
        if name == "sequential":
            self._steps = stream.steps
        pairs = _pair_bytes(config, self._subject.world.transformer.norm.weight.element_size())
        contender = Contender(
            name,
            is_exact(way.mode, config),
            weights,
            pairs,
            decoder.rows,
            lambda: how,
            way.mode,
            width=way.width if way.mode == "jacobi" else None,
            diagonal=way.diagonal if way.mode == "diagonal" else None,
            least_forwards=decoder.least_forwards if way.mode in DRAFTING else None,
        )
        return contender, stream

    def _plain(self) -> tuple[Contender, Stream]:
        """Draws again what `sequential` drew."""
        world = self._subject.world
        plain: PlainRaster
        if self.plain == "published":
            plain = PublishedRaster(world.transformer, self._sampling, compiled=True)
        else:
            plain = PlainRaster(world.transformer, self._sampling)
        stream = PlainRasterStream(plain, self._steps)
        weights = sum(w.nbytes for w in _matrices(world.transformer))
        pairs = _pair_bytes(self._subject.config, world.transformer.norm.weight.element_size())
        contender = Contender(self.plain, True, weights, pairs, 1, lambda: plain.how, self.plain)
        return contender, stream

    def _decoder(self, way: _Way) -> tuple[Any, int, str]:
        """A decoder, how much of the weights its forward reads, and what it is."""
        world, dtype = self._subject.world, str(self._subject.world.transformer.norm.weight.dtype)
        decoder, own = self._built(way), dtype.removeprefix("torch.")
        step = getattr(decoder.executor, "step", None)
        if step is not None:  # a CudaExecutor
            stored = own if self._subject.precision == "model" else self._subject.precision
            return decoder, step.bytes_read(1), f"{stored} weights, our kernels, CUDA graphs"
        weights = sum(w.nbytes for w in _matrices(world.transformer))
        if decoder.heads is not None:  # guesses are turned into logits by a pass of their own
            output = world.transformer.output.weight
            assert isinstance(output, torch.Tensor)
            weights += decoder.heads.weight.nbytes + output.nbytes
        return decoder, weights, f"{own}, torch"

    def _built(self, way: _Way) -> Decoder:
        """As a world would choose it, with room for two sessions."""
        world = self._subject.world
        options = DecodeOptions(
            mode=way.mode,
            jacobi_window=way.width,
            row_lag=way.diagonal,
            weight_dtype=self._subject.precision,
        )
        return make_decoder(world.transformer, 2, self._sampling, options, heads=world.heads)

    def _begin(self) -> tuple[Conditioning, SavedTokens]:
        """What the first latent is drawn from."""
        subject = self._subject
        if subject.trained is False:
            return random_past(subject.world, subject.context or 1)
        conditioning, start = start_of(subject.world)
        if subject.context is None or len(start.codes) >= subject.context:
            return conditioning, start
        decoder, _, _ = self._decoder(_Way("sequential"))
        stream = RasterStream(decoder, conditioning, start, fixed=False)
        for number in range(subject.context - len(start.codes)):
            stream.latent(number, lambda: None)
        return conditioning, stream.past()


def _check(subject: Subject) -> None:
    if subject.precision != "model" and subject.device.type != "cuda":
        raise ValueError(
            f"weights of one byte are read by our kernels alone: expected --device cuda, got "
            f"{subject.device} with {subject.precision}; leave --weight-dtype out"
        )
    most = subject.config.latent_shape[0] - 1
    if subject.context is not None and not 1 <= subject.context <= most:
        raise ValueError(
            f"this model knows {most + 1} latents, the one that is drawn included: expected a "
            f"--context-latents from 1 to {most}, got {subject.context}"
        )
    check_choices(subject.config, subject.device, subject.widths, subject.diagonals)


def check_choices(
    config: TransformerConfig, device: torch.device, widths: Sequence[int], diagonals: Sequence[int]
) -> None:
    """Return Jacobi windows and row lags for a raster-order model. Raises ValueError."""
    _, height, width = config.latent_shape
    on_gpu = device.type == "cuda"
    widest = min(_MOST_ROWS, height * width) if on_gpu else height * width
    for window in widths:
        if not 1 <= window <= widest:
            raise ValueError(
                f"a window is of tokens of one latent, on a GPU of at most {_MOST_ROWS}: expected "
                f"a --width from 1 to {widest}, got {window}"
            )
    for k in diagonals:
        if not 1 <= k <= width:
            raise ValueError(
                f"a row of this model's latents has {width} tokens: expected a --row-lag from 1 "
                f"to {width}, got {k}"
            )
        if on_gpu and (rows := WavefrontSchedule(height, width, k).rows) > _MOST_ROWS:
            raise ValueError(
                f"--row-lag {k} runs {rows} tokens in a forward: expected at most {_MOST_ROWS} on "
                "a GPU; choose a larger one"
            )


def check_acceptances(config: TransformerConfig, acceptances: Sequence[float]) -> None:
    """Tokens per forward of a mode that guesses. Raises ValueError."""
    tokens = math.prod(config.latent_shape[1:])
    for acceptance in acceptances:
        if not 1 <= acceptance <= tokens:
            raise ValueError(
                "a forward draws one token at least, and no more than a latent has: expected an "
                f"--acceptance from 1 to {tokens}, got {acceptance:g}"
            )


def precision_of(weights: str | None, own: torch.dtype | None) -> WeightDtype:
    """`weights` ("bf16", "fp8", "int8", None: the model's own type) of a model in the type `own`,
    None for a world without a transformer. Raises ValueError for bf16 of one in another type."""
    if weights in ("fp8", "int8"):
        return cast(WeightDtype, weights)
    if weights is not None and own != torch.bfloat16:
        got = "a world without weights" if own is None else f"one in {own}"
        raise ValueError(
            "expected --weight-dtype fp8 or int8, or bf16 for a model in bfloat16, got "
            f"{weights} for {got}; leave --weight-dtype out to read its own type"
        )
    return "model"
