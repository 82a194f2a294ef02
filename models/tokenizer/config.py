"""What a video tokenizer is made of, as one validated value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

__all__ = ["Resample", "TokenizerConfig"]

Norm = Literal["group", "rms"]
TemporalConvs = Literal["all", "mid", "none"]
Upsample = Literal["nearest", "subpixel"]
Downsample = Literal["published", "space_to_depth"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "norm": get_args(Norm),
    "temporal_convs": get_args(TemporalConvs),
    "upsample": get_args(Upsample),
    "downsample": get_args(Downsample),
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
    """Shape of a tokenizer; level 0 is the finest grid, after the Haar patches.

    Raises ValueError naming the field, its value and what it should be.
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
            if field.name in _CHOICES and value not in _CHOICES[field.name]:
                raise ValueError(f"{field.name}: expected {_CHOICES[field.name]}, got {value!r}")
            if field.name in _FLAGS and not isinstance(value, bool):
                raise ValueError(f"{field.name}: expected true or false, got {value!r}")
            if field.type == "int":
                _positive(field.name, value)
        self._check_sizes()
        self._check_steps()

    def _check_sizes(self) -> None:
        depth = len(self.channel_multipliers)
        for name in ("encoder_res_blocks", "decoder_res_blocks"):
            if len(getattr(self, name)) != depth:
                raise ValueError(
                    f"{name}: expected {depth} numbers, one per channel_multipliers, "
                    f"got {getattr(self, name)}"
                )
        if self.embedding_dim != len(self.levels):
            raise ValueError(
                f"embedding_dim: expected {len(self.levels)} = len(levels), "
                f"got {self.embedding_dim}"
            )
        if min(self.levels) < 2:
            raise ValueError(f"levels: expected each to be at least 2, got {self.levels}")
        for name, allowed in {
            "in_kernel": (1, 3),
            "out_kernel": (1, 3),
            "encoder_mid_blocks": (1, 2),
            "decoder_mid_blocks": (1, 2),
        }.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {allowed}, got {getattr(self, name)}")

    def _check_steps(self) -> None:
        for name in ("patch_size", "spatial_compression", "temporal_compression"):
            value = getattr(self, name)
            if value & (value - 1):
                raise ValueError(f"{name}: expected a power of two, got {value}")
        for name, total, patch in (
            ("spatial_compression", self.spatial_compression, self.patch_size),
            ("temporal_compression", self.temporal_compression, self.patch_frames),
        ):
            if total < patch:
                raise ValueError(
                    f"{name}: expected at least {patch}, what the Haar patch takes, got {total}"
                )
        for name, steps in (("encoder", self.down_steps()), ("decoder", self.up_steps())):
            space, time = sum(s.space for s in steps), sum(s.time for s in steps)
            if (space, time) != (self.space_halvings, self.time_halvings):
                raise ValueError(
                    f"channel_multipliers: {len(self.channel_multipliers)} levels give the {name} "
                    f"{space} steps in space and {time} in time, but spatial_compression "
                    f"{self.spatial_compression} and temporal_compression "
                    f"{self.temporal_compression} with this patch need {self.space_halvings} and "
                    f"{self.time_halvings}; add levels"
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
        size = 1
        for level in self.levels:
            size *= level
        return size

    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.channels * m for m in self.channel_multipliers)

    def patch_channels(self, colours: int) -> int:
        return colours * self.patch_size**2 * self.patch_frames

    def down_steps(self) -> tuple[Resample, ...]:
        """Entry i: the encoder's step from level i to level i + 1."""
        return tuple(
            Resample(space=i < self.space_halvings, time=i < self.time_halvings)
            for i in range(len(self.channel_multipliers) - 1)
        )

    def up_steps(self) -> tuple[Resample, ...]:
        """Entry i: the decoder's step from level i + 1 to level i.

        Not the mirror of the encoder: the published decoder enlarges space first and time
        from the second step on, even where a mirror would do otherwise.
        """
        steps = []
        for i in range(len(self.channel_multipliers) - 1):
            order = len(self.channel_multipliers) - 2 - i  # 0 = first step the decoder takes
            time = 0 < order <= self.time_halvings
            extra = self.space_halvings > self.time_halvings and order < self.space_halvings
            steps.append(Resample(space=time or extra, time=time))
        return tuple(steps)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> TokenizerConfig:
        """Inverse of `to_json`; raises ValueError for unknown keys and wrong values."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"tokenizer config: expected JSON, got {text[:40]!r}") from error
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TokenizerConfig:
        if not isinstance(data, Mapping):
            raise ValueError(f"tokenizer config: expected an object, got {type(data).__name__}")
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ValueError(f"tokenizer config: unknown keys {unknown}; known are {sorted(known)}")
        return cls(**data)


def _log2(value: int) -> int:
    return value.bit_length() - 1


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    return value


def _positive_tuple(name: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or not values:
        raise ValueError(f"{name}: expected a list of integers, got {values!r}")
    return tuple(_positive(name, value) for value in values)
