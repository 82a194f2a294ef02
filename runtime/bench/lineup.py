"""What `bench decode` compares: every decode mode of a world, and the plain way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.models.world_folder import World
from worldbridge.runtime.bench.plain_raster import PlainRaster, PublishedRaster
from worldbridge.runtime.bench.streams import (
    GridStream,
    PlainGridStream,
    PlainRasterStream,
    RasterStream,
    Step,
    Stream,
    random_past,
    start_of,
)
from worldbridge.runtime.conditioning import Conditioning
from worldbridge.runtime.decoding import (
    DECODE_MODES,
    RASTER_MODES,
    RasterDecoder,
    RasterSnapshot,
    Sampling,
)
from worldbridge.runtime.decoding.choice import decoder_for
from worldbridge.runtime.decoding.packed import PackedLinear
from worldbridge.runtime.decoding.raster_options import is_exact
from worldbridge.runtime.weights import Precision

__all__ = ["Contender", "GridLineup", "Lineup", "RasterLineup", "Subject"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is decoded, and how."""

    world: World
    device: torch.device
    precision: Precision = "model"
    context: int | None = None  # latents behind which every measured one begins
    trained: bool | None = True  # None: the world does not say

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


def _matrices(model: VideoTransformer) -> list[torch.Tensor]:
    return [m.weight for m in model.modules() if isinstance(m, nn.Linear)]


def _pair_bytes(config: TransformerConfig, itemsize: int) -> int:
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * itemsize


class GridLineup:
    """Of a world with a token grid."""

    latents = (15, 90)
    plain = "plain"

    def __init__(self, subject: Subject, only: Sequence[str]) -> None:
        if subject.context is not None or subject.precision != "model":
            raise ValueError(
                "a world with a token grid is decoded behind its full window, and in its own "
                "precision: expected neither --context nor --weights; leave them out"
            )
        self._world = subject.world
        self.names = [*_modes(DECODE_MODES, subject.world, only), self.plain]

    def contender(self, name: str) -> tuple[Contender, Stream]:
        model, config = self._world.transformer, self._world.transformer.config
        halved = name != self.plain and PackedLinear(torch.zeros(8, 8)).packed is not None
        weights = sum(w.numel() * (2 if halved else w.element_size()) for w in _matrices(model))
        stream: Stream
        if name == self.plain:
            stream = PlainGridStream(self._world)
            how = "the model's layers as they are, in float32, one slot per forward, not recorded"
        else:
            stream = GridStream(self._world, name)
            how = "fused, " + ("packed as float16" if halved else "float32")
            how += ", not recorded" if name == "sequential" else ", recorded"
            if name == "medusa":
                assert self._world.heads is not None
                weights += self._world.heads.weight.numel() * (2 if halved else 4)
        told = Contender(name, True, weights, _pair_bytes(config, 4), None, lambda: how)
        return told, stream


class RasterLineup:
    """Of a model that is decoded in raster order."""

    latents = (3, 8)

    def __init__(self, subject: Subject, only: Sequence[str]) -> None:
        _check(subject)
        self._subject = subject
        self._sampling = Sampling(**subject.world.manifest["sampling"])
        self.plain = "published" if subject.device.type == "cuda" else "plain"
        self.names = [*_modes(RASTER_MODES, subject.world, only), self.plain]
        self._told, self._start = self._begin()
        self._steps: list[Step] = []  # what `sequential` drew its latents from

    def contender(self, name: str) -> tuple[Contender, Stream]:
        config = self._subject.config
        if name == self.plain:
            return self._plain()
        decoder, weights, how = self._decoder(name)
        fixed = self._subject.context is not None
        stream = RasterStream(decoder, self._told, self._start, fixed=fixed)
        if name == "sequential":
            self._steps = stream.steps
        pairs = _pair_bytes(config, self._subject.world.transformer.norm.weight.element_size())
        told = Contender(name, is_exact(name, config), weights, pairs, decoder.rows, lambda: how)
        return told, stream

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
        return Contender(self.plain, True, weights, pairs, 1, lambda: plain.how), stream

    def _decoder(self, mode: str) -> tuple[Any, int, str]:
        """A decoder, how much of the weights its forward reads, and what it is."""
        world, dtype = self._subject.world, str(self._subject.world.transformer.norm.weight.dtype)
        decoder, own = self._built(mode), dtype.removeprefix("torch.")
        packed = getattr(decoder, "weights", None)
        if packed is not None:  # a DeviceDecoder
            stored = own if self._subject.precision == "model" else self._subject.precision
            return decoder, packed.bytes_per_step, f"{stored} weights, our kernels, CUDA graphs"
        weights = sum(w.nbytes for w in _matrices(world.transformer))
        if decoder.heads is not None:  # guesses are turned into logits by a pass of their own
            output = world.transformer.output.weight
            assert isinstance(output, torch.Tensor)
            weights += decoder.heads.weight.nbytes + output.nbytes
        return decoder, weights, f"{own}, torch"

    def _built(self, mode: str) -> RasterDecoder:
        """As a world would choose it, with room for two sessions."""
        world, precision = self._subject.world, self._subject.precision
        if precision == "model":
            return decoder_for(world.transformer, 2, self._sampling, mode, heads=world.heads)
        # imported here: it brings Triton, which a CPU has no use for
        from worldbridge.runtime.decoding.device_decoder import DeviceDecoder

        return DeviceDecoder(
            world.transformer, 2, self._sampling, mode, heads=world.heads, precision=precision
        )

    def _begin(self) -> tuple[Conditioning, RasterSnapshot]:
        """What the first latent is drawn from."""
        subject = self._subject
        if subject.trained is False:
            return random_past(subject.world, subject.context or 1)
        told, start = start_of(subject.world)
        if subject.context is None or len(start.codes) >= subject.context:
            return told, start
        decoder, _, _ = self._decoder("sequential")
        stream = RasterStream(decoder, told, start, fixed=False)
        for number in range(subject.context - len(start.codes)):
            stream.latent(number, lambda: None)
        return told, stream.past()


def _check(subject: Subject) -> None:
    if subject.precision != "model" and subject.device.type != "cuda":
        raise ValueError(
            f"weights of one byte are read by our kernels alone: expected --device cuda, got "
            f"{subject.device} with {subject.precision}; leave --weights out"
        )
    most = subject.config.latent_shape[0] - 1
    if subject.context is not None and not 1 <= subject.context <= most:
        raise ValueError(
            f"this model knows {most + 1} latents, the one that is drawn included: expected a "
            f"--context from 1 to {most}, got {subject.context}"
        )
