"""Describe a video tokenizer as one validated value; list the published ones and ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from worldbridge.models.errors import require

__all__ = [
    "CONFIGS",
    "DV4X8X8",
    "DV8X8X8",
    "DV8X16X16",
    "EMBEDDED",
    "Resample",
    "TokenizerConfig",
    "decoder_receptive_field",
]

Norm = Literal["group", "rms"]
TemporalConvs = Literal["all", "mid", "none"]
Upsample = Literal["nearest", "subpixel"]
Downsample = Literal["published", "space_to_depth"]

_CHOICES: dict[str, tuple[object, ...]] = {
    "norm": get_args(Norm),
    "temporal_convs": get_args(TemporalConvs),
    "upsample": get_args(Upsample),
    "downsample": get_args(Downsample),
    "in_kernel": (1, 3),
    "out_kernel": (1, 3),
    "encoder_mid_blocks": (1, 2),
    "decoder_mid_blocks": (1, 2),
}
_TUPLES = ("channel_multipliers", "encoder_res_blocks", "decoder_res_blocks", "levels")
_FLAGS = ("patch_time", "attention", "zero_init")


@dataclass(frozen=True, slots=True)
class Resample:
    """Whether one step between two levels halves (doubles) space and time."""

    space: bool = False
    time: bool = False

    def __bool__(self) -> bool:
        return self.space or self.time


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """Describe a tokenizer; level 0 is the finest grid, after the Haar patches.

    Raises InputError with the field, its value and what it should be.
    """

    channels: int = 128  # width before the first level
    channel_multipliers: tuple[int, ...] = (2, 4, 4)  # width of level i = channels * multiplier
    encoder_res_blocks: tuple[int, ...] = (2, 2, 2)  # per level
    decoder_res_blocks: tuple[int, ...] = (3, 3, 3)  # per level
    encoder_mid_blocks: int = 2  # 1 or 2, at the coarsest level
    decoder_mid_blocks: int = 2
    patch_size: int = 4  # Haar patch, pixels per side
    patch_time: bool = True  # the patch also spans patch_size frames
    spatial_compression: int = 16  # pixels per latent, per side
    temporal_compression: int = 8  # frames per latent after the first
    z_channels: int = 16
    embedding_dim: int = 6  # = len(levels)
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    norm: Norm = "group"  # group: whole frame, one group; rms: per position over channels
    temporal_convs: TemporalConvs = "all"  # which blocks have the (3,1,1) halves
    attention: bool = True  # space, then causal time, between the mid blocks
    upsample: Upsample = "nearest"
    downsample: Downsample = "published"
    in_kernel: int = 3  # first convolution of the encoder, 1 or 3
    out_kernel: int = 3  # last convolution of the decoder, 1 or 3
    zero_init: bool = False  # residual branches start at zero
    in_channels: int = 3
    out_channels: int = 3

    def __post_init__(self) -> None:
        for name in _TUPLES:
            object.__setattr__(self, name, _positive_tuple(name, getattr(self, name)))
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _CHOICES:
                allowed = _CHOICES[field.name]
                require(value in allowed, field.name, f"one of {allowed}", repr(value))
            if field.name in _FLAGS:
                require(isinstance(value, bool), field.name, "true or false", repr(value))
            if field.type == "int":
                _positive(field.name, value)
        self._check_sizes()
        self._check_steps()

    def _check_sizes(self) -> None:
        depth, count = len(self.channel_multipliers), len(self.levels)
        for name in ("encoder_res_blocks", "decoder_res_blocks"):
            value = getattr(self, name)
            require(
                len(value) == depth, name, f"{depth} numbers, one per channel_multipliers", value
            )
        fits = self.embedding_dim == count
        require(fits, "embedding_dim", f"{count} = len(levels)", self.embedding_dim)
        require(min(self.levels) >= 2, "levels", "each to be at least 2", self.levels)

    def _check_steps(self) -> None:
        space, time = self.spatial_compression, self.temporal_compression
        for name, total, patch in (
            ("patch_size", self.patch_size, 1),
            ("spatial_compression", space, self.patch_size),
            ("temporal_compression", time, self.patch_frames),
        ):
            require(total & (total - 1) == 0, name, "a power of two", total)
            require(total >= patch, name, f"at least {patch}, what the Haar patch takes", total)
        halvings = (self.space_halvings, self.time_halvings)
        for coder, steps in (("encoder", self.down_steps()), ("decoder", self.up_steps())):
            found = (sum(s.space for s in steps), sum(s.time for s in steps))
            require(
                found == halvings,
                "channel_multipliers",
                f"levels that give the {coder} {halvings[0]} steps in space and {halvings[1]} in "
                f"time, as spatial_compression {space} and temporal_compression {time} need",
                f"{len(self.channel_multipliers)} levels, {found[0]} and {found[1]} steps",
                "add levels",
            )

    @property
    def patch_frames(self) -> int:
        return self.patch_size if self.patch_time else 1

    @property
    def space_halvings(self) -> int:
        """Halvings of each side between the Haar patch and the latents."""
        return _log2(self.spatial_compression) - _log2(self.patch_size)

    @property
    def time_halvings(self) -> int:
        return _log2(self.temporal_compression) - _log2(self.patch_frames)

    @property
    def vocabulary(self) -> int:
        """Number of different indices."""
        return math.prod(self.levels)

    def widths(self) -> tuple[int, ...]:
        """Return the channels of each level, finest first."""
        return tuple(self.channels * m for m in self.channel_multipliers)

    def patch_channels(self, colours: int) -> int:
        return colours * self.patch_size**2 * self.patch_frames

    def down_steps(self) -> tuple[Resample, ...]:
        """Return the steps; entry i is the encoder's step from level i to level i + 1."""
        return tuple(
            Resample(space=i < self.space_halvings, time=i < self.time_halvings)
            for i in range(len(self.channel_multipliers) - 1)
        )

    def up_steps(self) -> tuple[Resample, ...]:
        """Return the steps; entry i is the decoder's step from level i + 1 to level i.

        It does not mirror the encoder: the published decoder enlarges space first, and time from
        the second step on.
        """
        steps = []
        for i in range(len(self.channel_multipliers) - 1):
            order = len(self.channel_multipliers) - 2 - i  # 0 = first step the decoder takes
            time = 0 < order <= self.time_halvings
            extra = self.space_halvings > self.time_halvings and order < self.space_halvings
            steps.append(Resample(space=time or extra, time=time))
        return tuple(steps)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TokenizerConfig:
        """Build the config from a JSON object. Raises InputError for unknown keys and values."""
        name = "tokenizer config"
        require(isinstance(data, Mapping), name, "an object", type(data).__name__)
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        require(not unknown, name, f"keys among {sorted(known)}", f"unknown keys {unknown}")
        return cls(**data)


def _log2(value: int) -> int:
    return value.bit_length() - 1


def _positive(name: str, value: object) -> int:
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    require(fits, name, "an integer of at least 1", repr(value))
    return cast(int, value)


def _positive_tuple(name: str, values: object) -> tuple[int, ...]:
    fits = isinstance(values, tuple | list) and len(values) > 0
    require(fits, name, "a list of integers", repr(values))
    return tuple(_positive(name, value) for value in cast(tuple[object, ...], values))


DV8X16X16 = TokenizerConfig()
DV8X8X8 = TokenizerConfig(spatial_compression=8)
DV4X8X8 = TokenizerConfig(spatial_compression=8, temporal_compression=4)

# Small enough for two CPU cores at 15 frames per second: 320x512 pixels <-> 10x16 latents.
EMBEDDED = TokenizerConfig(
    channels=48,
    channel_multipliers=(1, 2, 4),
    encoder_res_blocks=(1, 1, 1),
    decoder_res_blocks=(1, 2, 2),
    encoder_mid_blocks=1,
    decoder_mid_blocks=2,
    patch_size=8,
    patch_time=False,
    spatial_compression=32,
    temporal_compression=1,
    z_channels=16,
    embedding_dim=6,
    levels=(8, 8, 8, 8, 8, 8),
    norm="rms",
    temporal_convs="mid",
    attention=False,
    upsample="subpixel",
    downsample="space_to_depth",
    in_kernel=1,
    out_kernel=1,
    zero_init=True,
)

CONFIGS = MappingProxyType(
    {"dv8x16x16": DV8X16X16, "dv8x8x8": DV8X8X8, "dv4x8x8": DV4X8X8, "embedded": EMBEDDED}
)

_CONV = 2  # past frames that a temporal convolution sees
_BLOCK = 2 * _CONV


def decoder_receptive_field(config: TokenizerConfig, window: int) -> int:
    """Return the receptive field: how many past latents a latent's frames depend on, at most.

    A decoder that starts fresh that many latents earlier makes exactly the frames that it would
    make in the middle of the stream. `window` is that of the stream's temporal attention. For
    DV8x16x16 the result is 42 + window.

    Counted from the frames back to the latents: a convolution adds what it sees at its rate, and
    where the decoder doubles the rate, two frames come from one.
    """
    everywhere, in_the_middle = config.temporal_convs == "all", config.temporal_convs != "none"
    frames = _CONV if everywhere else 0  # the last convolution
    for level, blocks in enumerate(config.decoder_res_blocks):
        if level > 0 and config.up_steps()[level - 1].time:
            frames = -(-(frames + _CONV) // 2)
        frames += blocks * _BLOCK if everywhere else 0
    frames += config.decoder_mid_blocks * _BLOCK if in_the_middle else 0
    frames += window if config.attention else 0
    return frames + (_CONV if everywhere else 0)  # the first convolution
