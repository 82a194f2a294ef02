"""What a decoder can be asked for: modes, windows, and how its weights are read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from worldbridge.models.transformer import MedusaHeads, TransformerConfig
from worldbridge.runtime.config import WEIGHT_DTYPES, WeightDtype
from worldbridge.runtime.errors import WeightDtypeError

__all__ = [
    "DECODE_MODES",
    "DEFAULT_JACOBI_WINDOW",
    "DEFAULT_ROW_LAG",
    "WEIGHT_DTYPES",
    "DecodeOptions",
    "WeightDtype",
    "check_weight_dtype",
    "is_exact",
]

DECODE_MODES = ("diagonal", "sequential", "jacobi", "medusa")
SLIDES = ("reprefill", "rotate")
DEFAULT_ROW_LAG = 2  # as others use with models of this kind
DEFAULT_JACOBI_WINDOW = 16


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How latents are sampled. `resolve` fills in what is None, and checks everything once.

    Modes: `sequential` samples one token per forward. `jacobi` verifies `jacobi_window` tokens per
    forward, drafted by earlier forwards. `medusa` verifies the drafts of trained heads. `diagonal`
    samples several rows of a latent together, each `row_lag` columns behind the row above.

    A context of `max_latents` slides, when it is full, to its newest `keep` latents: `slide`
    "reprefill" computes their keys again, "rotate" turns the old keys back in time. `padding` is
    the least number of rows per session of a forward that samples.

    The rest is for CUDA: the `weight_dtype`; `context_rows`, of the longest text context;
    `split`, cache entries that attention takes at a stretch; `group`, the most steps between two
    looks at the device's progress, and `ahead`, steps enqueued beyond those that are certain.
    """

    mode: str | None = None  # None: diagonal where it is exact, otherwise jacobi
    max_latents: int | None = None  # None: as many as the model was trained with
    keep: int | None = None  # None: half of them
    slide: str = "reprefill"
    jacobi_window: int = DEFAULT_JACOBI_WINDOW
    jacobi_heads: bool = False  # in mode jacobi, heads draft beyond the window
    row_lag: int = DEFAULT_ROW_LAG
    padding: int = 1
    weight_dtype: WeightDtype = "model"
    context_rows: int = 512
    split: int = 256
    group: int = 8
    ahead: int = 0

    def resolve(self, config: TransformerConfig, heads: MedusaHeads | None = None) -> Self:
        """Return these options for a model and its heads. Raises ValueError."""
        mode = self.mode or ("jacobi" if config.grid is None else "diagonal")
        most = config.latent_shape[0] if self.max_latents is None else self.max_latents
        keep = max(1, most // 2) if self.keep is None else self.keep
        options = dataclasses.replace(self, mode=mode, max_latents=most, keep=keep)
        options._check_sampling(config, heads)
        if config.grid is None:
            options._check_window(config, most, keep)
        return options

    def _check_sampling(self, config: TransformerConfig, heads: MedusaHeads | None) -> None:
        if self.mode not in DECODE_MODES:
            raise ValueError(f"unknown decode mode {self.mode!r}; expected one of {DECODE_MODES}")
        if self.mode == "medusa" and heads is None:
            raise ValueError("mode 'medusa' needs the model's heads, got none; use mode 'jacobi'")
        if heads is not None and heads.dim != config.dim:
            raise ValueError(f"expected heads for a model {config.dim} wide, got {heads.dim}")
        for name in ("jacobi_window", "row_lag", "padding", "split", "group"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.weight_dtype not in WEIGHT_DTYPES:
            raise ValueError(
                f"unknown weight_dtype {self.weight_dtype!r}; expected one of {WEIGHT_DTYPES}"
            )

    def _check_window(self, config: TransformerConfig, most: int, keep: int) -> None:
        if config.conditioning == "modulation":
            raise ValueError("a model without token grid has no conditioning 'modulation'")
        if self.slide not in SLIDES:
            raise ValueError(f"unknown slide {self.slide!r}; expected one of {SLIDES}")
        if self.slide == "rotate" and config.apply_abs_pos_emb:
            raise ValueError(
                "slide 'rotate' cannot move absolute position embeddings, which this model adds "
                "to every layer; use slide 'reprefill'"
            )
        if self.slide == "rotate" and config.takes_camera:
            raise ValueError(
                "slide 'rotate' cannot move cameras, which are relative to a window's first "
                "latent; use slide 'reprefill'"
            )
        if not 2 <= most <= config.latent_shape[0]:
            raise ValueError(
                f"max_latents must be in 2..{config.latent_shape[0]}, the trained range, got {most}"
            )
        if not 1 <= keep < most:
            raise ValueError(f"keep must be in 1..{most - 1}, below max_latents, got {keep}")


def is_exact(mode: str, config: TransformerConfig) -> bool:
    """Return whether a mode samples the tokens of sequential decoding from such a model.

    `diagonal` is exact where the model was trained with the wavefront's mask. From other models it
    samples something else, because a token no longer sees all before it.
    """
    return mode != "diagonal" or config.grid is not None


def check_weight_dtype(dtype: str, manifest: dict[str, Any], device: str) -> None:
    """Check by its world.json that a world's weights can be read so. Raises WeightDtypeError."""
    if dtype not in WEIGHT_DTYPES:
        raise WeightDtypeError(
            "there are no such weights",
            expected="one of " + ", ".join(WEIGHT_DTYPES),
            got=repr(dtype),
            remedy="choose one of these, or leave --weight-dtype out",
        )
    if dtype == "model":
        return
    if manifest["transformer"].get("grid") is not None:
        raise WeightDtypeError(
            f"this world has no {dtype} weights",
            expected="a converted Cosmos world",
            got="one with a token grid",
            remedy="leave --weight-dtype out",
        )
    if device != "cuda":
        raise WeightDtypeError.no_kernels(dtype, f"the device {device}")
